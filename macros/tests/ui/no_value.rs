#[demi::main(paused)]
async fn main() {}
