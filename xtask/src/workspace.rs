//! Where things lie: the repository's root, the target folder, the log of a step, and the test files in the tree.
//! It only reads folders; the one thing it makes is the folder for logs.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Paths of this checkout.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

/// A program in `examples/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Example {
    /// What `cargo run --example` calls it.
    pub(crate) name: String,
    /// It has unit tests of its own (`test = true`).
    pub(crate) tested: bool,
}

impl Workspace {
    /// The checkout this driver was built from.
    pub(crate) fn open() -> io::Result<Workspace> {
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().map_or(manifest.clone(), Path::to_path_buf);
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => root.join(folder),
            None => root.join("target"),
        };
        let workspace = Workspace { root, target };
        fs::create_dir_all(workspace.logs())?;
        Ok(workspace)
    }

    /// The repository's root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The folder that keeps the output of each step.
    pub(crate) fn logs(&self) -> PathBuf {
        self.target.join("xtask")
    }

    /// Names of the integration test targets of all members, sorted: `MEMBER/tests/NAME.rs` and
    /// `MEMBER/tests/NAME/main.rs`.
    pub(crate) fn test_targets(&self) -> Vec<String> {
        let mut names = Vec::new();
        let below =
            |folder: PathBuf| children(&folder).into_iter().filter(|path| path.join("Cargo.toml").is_file());
        // A member may have a package of its own below it.
        let nested = children(&self.root).into_iter().flat_map(below);
        for member in children(&self.root).into_iter().chain(nested) {
            for entry in children(&member.join("tests")) {
                let is_target =
                    entry.extension().is_some_and(|ext| ext == "rs") || entry.join("main.rs").is_file();
                if let (true, Some(stem)) = (is_target, entry.file_stem().and_then(|stem| stem.to_str())) {
                    names.push(stem.to_owned());
                }
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// The programs that `examples/Cargo.toml` declares.
    pub(crate) fn examples(&self) -> Vec<Example> {
        examples_of(&fs::read_to_string(self.root.join("examples/Cargo.toml")).unwrap_or_default())
    }

    /// Names of the programs in `benches/src/bin/`.
    pub(crate) fn benchmarks(&self) -> Vec<String> {
        let mut names: Vec<String> = children(&self.root.join("benches/src/bin"))
            .into_iter()
            .filter(|path| path.join("main.rs").is_file() || path.extension().is_some_and(|ext| ext == "rs"))
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names
    }

    /// Whether a source file under `folder` (from the root) holds `text`.
    pub(crate) fn mentions(&self, folder: &str, text: &str) -> bool {
        fn search(folder: &Path, text: &str) -> bool {
            children(folder).into_iter().any(|path| {
                if path.is_dir() {
                    search(&path, text)
                } else {
                    path.extension().is_some_and(|ext| ext == "rs")
                        && fs::read_to_string(&path).is_ok_and(|source| source.contains(text))
                }
            })
        }
        search(&self.root.join(folder), text)
    }
}

/// Reads the `[[example]]` tables of a manifest: enough TOML for that, a key a line.
fn examples_of(manifest: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[[example]]";
            if inside {
                examples.push(Example { name: String::new(), tested: false });
            }
        } else if let (true, Some(example), Some((key, value))) =
            (inside, examples.last_mut(), line.split_once('='))
        {
            match key.trim() {
                "name" => example.name = value.trim().trim_matches('"').to_owned(),
                "test" => example.tested = value.trim() == "true",
                _ => {}
            }
        }
    }
    examples
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_folder_that_holds_the_workspace() {
        let workspace = Workspace::open().expect("target is writable");
        let manifest = fs::read_to_string(workspace.root().join("Cargo.toml")).expect("root manifest");
        assert!(manifest.contains("[workspace]"));
    }

    #[test]
    fn examples_are_read_with_whether_they_are_tested() {
        let manifest = "[package]\nname = \"x\"\n\n[[example]]\nname = \"echo\"\npath = \"echo.rs\"\n\n\
                        [[example]]\nname = \"kv\"\ntest = true\n\n[lints]\nworkspace = true\n";
        let example = |name: &str, tested| Example { name: name.to_owned(), tested };
        assert_eq!(examples_of(manifest), [example("echo", false), example("kv", true)]);
    }

    #[test]
    fn text_in_a_nested_source_file_is_found() {
        let workspace = Workspace::open().expect("target is writable");
        assert!(workspace.mentions("xtask", "fn text_in_a_nested_source_file_is_found"));
        assert!(!workspace.mentions("xtask/src", concat!("nowhere", "-to-be-found")));
    }
}
