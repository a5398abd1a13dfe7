#[demi::main(paused = "yes")]
async fn main() {}
