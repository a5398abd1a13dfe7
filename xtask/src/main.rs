//! The project's build and test driver.
fn main() {}
