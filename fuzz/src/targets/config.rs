//! Configuration: any text for any key, and any file.

use demi::Config;

use crate::input::Input;

/// The first byte chooses a key, or the file.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let which = usize::from(input.u8());
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    let Some(key) = Config::KEYS.get(which) else {
        if let Err(error) = demi::fuzzing::config_file(&text) {
            told(&error, "");
        }
        return;
    };
    match Config::new().set(key.name, text.clone()).check() {
        // What is accepted is accepted again in the form that it is in.
        Ok(config) => {
            let again =
                Config::new().set(key.name, text.trim().to_owned()).check().expect("blanks around a value");
            assert_eq!(format!("{config:?}"), format!("{again:?}"), "{} = {text:?}", key.name);
        }
        Err(error) => told(&error, key.name),
    }
}

/// An error names its key.
fn told(error: &std::io::Error, key: &str) {
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains(key), "{error}");
}
