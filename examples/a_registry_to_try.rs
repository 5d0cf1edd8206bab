//! A registry with one small image, to point a mirror at and to switch off: what the README's
//! first steps pull from. It serves until its standard input ends.

use std::error::Error;
use std::net::SocketAddr;

use registry_server::testing::{FixtureRegistry, ImageSpec};
use tokio::io::AsyncReadExt as _;

const ADDRESS: &str = "127.0.0.1:5555";

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example tells what it does")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = ADDRESS.parse()?;
    let registry = FixtureRegistry::start_on(address).await;
    let spec = ImageSpec::new(1).archives(&[1 << 10, 1 << 20]);
    registry.add_image("org/app", "1.0", &spec);
    println!(
        "serving org/app:1.0 at {}; press Enter to stop",
        registry.url()
    );
    // One byte, or the end.
    tokio::io::stdin()
        .read_buf(&mut Vec::with_capacity(1))
        .await?;
    println!("it was asked {} times", registry.total());
    Ok(())
}
