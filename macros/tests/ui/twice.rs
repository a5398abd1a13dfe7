#[demi::main(mtu = 1500, mtu = 9000)]
async fn main() {}
