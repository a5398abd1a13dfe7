#[demi::main(devise = "auto")]
async fn main() {}
