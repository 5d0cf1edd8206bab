//! The mirror in a program of your own. The registry behind it is one in this process, so that it
//! can be switched off: `registry_server::testing` is there for your tests, too.

use std::error::Error;
use std::net::SocketAddr;

use registry_server::Mirror;
use registry_server::testing::{FixtureRegistry, ImageSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example tells what it does")]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = FixtureRegistry::start().await;
    registry.add_image("org/app", "1.0", &ImageSpec::new(1));

    let folder = tempfile::tempdir()?;
    let mirror = Mirror::builder()
        .data_dir(folder.path())
        .listen("127.0.0.1:0")
        .upstream("registry.example", &registry.url())
        .start()
        .await?;
    println!("pull from http://{}", mirror.addr());

    let path = "/v2/org/app/manifests/1.0?ns=registry.example";
    println!("first: {}", get(mirror.addr(), path).await?);
    println!("again: {}", get(mirror.addr(), path).await?);
    registry.stop().await;
    println!("without its registry: {}", get(mirror.addr(), path).await?);

    mirror.shutdown().await;
    Ok(())
}

/// Pulls a path, and gives the line that says how it was answered.
async fn get(mirror: SocketAddr, path: &str) -> Result<String, Box<dyn Error>> {
    let mut stream = TcpStream::connect(mirror).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {mirror}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.lines().find(|line| line.starts_with("cache-status"));
    Ok(status.ok_or("no registry answered")?.to_owned())
}
