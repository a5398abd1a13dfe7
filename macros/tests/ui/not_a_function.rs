#[demi::main]
struct Main;

fn main() {}
