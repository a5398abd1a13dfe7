//! Overlays: the file that `DEMI_CONFIG` names, and the environment.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::{Config, Setting};

/// What all variables of ours begin with.
const PREFIX: &str = "DEMI_";
/// The variable that names the file.
const FILE: &str = "DEMI_CONFIG";
/// The variable by which the project's tests know which tier runs them; programs under test inherit it.
const TIER: &str = "DEMI_TIER";

/// `config`, overridden by the file that the variables name, overridden by the variables.
pub(super) fn overlay(
    config: Config,
    vars: impl Iterator<Item = (OsString, OsString)>,
) -> io::Result<Config> {
    let mut ours = Vec::new();
    for (name, value) in vars {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let value = value.into_string().map_err(|_| invalid(format!("{name}: its value is not UTF-8")))?;
        ours.push((name.to_owned(), value));
    }
    // An environment has no order; errors should not depend on it.
    ours.sort();

    // A wrong value in code that a file or a variable replaces is still wrong: it is told first.
    let mut config = config.check()?;
    if let Some((_, path)) = ours.iter().find(|(name, path)| name == FILE && !path.is_empty()) {
        file(&mut config, Path::new(path))?;
    }
    for (name, value) in &ours {
        if name == FILE || name == TIER {
            continue;
        }
        let key = name[PREFIX.len()..].to_ascii_lowercase();
        config
            .apply(&key, &Setting::Text(value.clone()))
            .map_err(|problem| invalid(format!("{name}={value}: {problem}")))?;
    }
    config.check()
}

fn file(config: &mut Config, path: &Path) -> io::Result<()> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{FILE}={shown}: {error}")))?;
    lines(config, &text, &shown)
}

/// Puts in force what the `text` of a file says, which messages call `shown`.
pub(super) fn lines(config: &mut Config, text: &str, shown: &impl std::fmt::Display) -> io::Result<()> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| invalid(format!("{shown}: {}", one_line(&error, text))))?;
    for (key, value) in &table {
        let value = setting(value).ok_or_else(|| {
            let kind = value.type_str();
            invalid(format!("{shown}: {key} is a {kind}: write a text, a whole number, a switch or a list"))
        })?;
        config
            .apply(key, &value)
            .map_err(|problem| invalid(format!("{shown}: {key} = {}: {problem}", value.text())))?;
    }
    Ok(())
}

/// A parser's message on one line, with the place.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let line =
        error.span().map_or(1, |span| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count());
    format!("line {line}: {}", error.message().replace('\n', ", "))
}

fn setting(value: &toml::Value) -> Option<Setting> {
    match value {
        toml::Value::String(text) => Some(Setting::Text(text.clone())),
        toml::Value::Integer(number) => Some(Setting::Int(i128::from(*number))),
        toml::Value::Boolean(switch) => Some(Setting::Bool(*switch)),
        toml::Value::Array(items) => items.iter().map(setting).collect::<Option<_>>().map(Setting::List),
        _ => None,
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::super::{DeviceSpec, Idle};
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> std::vec::IntoIter<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect::<Vec<_>>().into_iter()
    }

    /// A file of this process alone, removed when dropped.
    struct TempFile(std::path::PathBuf);

    impl TempFile {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("demi-config-{}-{name}.toml", std::process::id()));
            std::fs::write(&path, text).unwrap();
            TempFile(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }
    }

    impl Drop for TempFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_file_overrides_code_and_the_environment_both() {
        let text = "mtu = 2000\nbacklog = 20\ndevice = [\"posix\", \"tap:t0\"]\nhuge_pages = false\n";
        let file = TempFile::new("wins", text);
        let code = Config::new().mtu(1000).backlog(10).idle("park");
        let config = overlay(code, vars(&[("DEMI_CONFIG", file.path()), ("DEMI_MTU", "3000")])).unwrap();
        assert_eq!((config.mtu, config.backlog, config.idle), (Some(3000), 20, Some(Idle::Park)));
        assert_eq!(config.device, [DeviceSpec::Posix, DeviceSpec::Tap { name: "t0".into() }]);
        assert!(!config.huge_pages);
    }

    #[test]
    fn an_error_says_where_the_value_was_written() {
        let error = |vars| overlay(Config::new(), vars).unwrap_err().to_string();
        let says = error(vars(&[("DEMI_IDLE", "sleep")]));
        assert_eq!(says, "DEMI_IDLE=sleep: no such idle policy: write spin, adaptive, park");

        let file = TempFile::new("value", "\nmtu = 1\n");
        let says = error(vars(&[("DEMI_CONFIG", file.path())]));
        assert!(says.contains(file.path()) && says.contains("mtu = 1: out of range"), "{says}");

        let file = TempFile::new("syntax", "mtu = 1500\nidle =\n");
        let says = error(vars(&[("DEMI_CONFIG", file.path())]));
        assert!(says.contains("line 2") && !says.contains('\n'), "{says}");

        let file = TempFile::new("table", "[net]\nmtu = 1500\n");
        let says = error(vars(&[("DEMI_CONFIG", file.path())]));
        assert!(says.contains("net is a table") && !says.contains('\n'), "{says}");

        let says = error(vars(&[("DEMI_CONFIG", "/nonexistent/demi.toml")]));
        assert!(says.starts_with("DEMI_CONFIG=/nonexistent/demi.toml: "), "{says}");
    }

    #[test]
    fn an_unknown_variable_is_an_error_and_a_strangers_is_not() {
        assert!(
            overlay(Config::new(), vars(&[("PATH", "/bin"), ("DEMIURGE", "x"), ("DEMI_TIER", "kernel")]))
                .is_ok()
        );
        let error = overlay(Config::new(), vars(&[("DEMI_DEVISE", "auto")])).unwrap_err().to_string();
        assert!(error.starts_with("DEMI_DEVISE=auto: no such key: the keys are device, address"), "{error}");
    }

    #[test]
    fn a_list_in_the_environment_has_commas_and_devices_have_semicolons() {
        let config = overlay(
            Config::new(),
            vars(&[
                ("DEMI_ADDRESS", "10.0.0.2/24, fd00::2/64"),
                ("DEMI_DEVICE", "posix; dpdk:-a 0000:00:04.0,x=1"),
            ]),
        );
        let config = config.unwrap();
        assert_eq!((config.address.len(), config.device.len()), (2, 2));
    }
}
