#[demi::main]
async fn main<T>() {}
