#[demi::main(mtu = 1.5)]
async fn main() {}
