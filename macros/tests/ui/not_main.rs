#[demi::main]
async fn serve() {}

fn main() {}
