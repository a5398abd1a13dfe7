#[demi::main]
fn main() {}
