//! The macros' list of keys is the configuration's.
#![cfg(feature = "macros")]

#[test]
fn the_macros_know_each_key_of_the_configuration() {
    let config: Vec<_> = demi::Config::KEYS.iter().map(|key| key.name).collect();
    assert_eq!(demi::__private::macro_keys(), config, "put them into macros/src/args.rs in this order");
}
