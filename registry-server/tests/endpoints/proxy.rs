//! Two small proxies: HTTP's `CONNECT`, and SOCKS 5. They write down whom they were asked for.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

#[derive(Clone, Copy)]
pub(crate) enum Protocol {
    Http,
    Socks5,
}

/// A proxy in this process, until it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _stop: DropGuard,
}

impl Proxy {
    pub(crate) async fn start(protocol: Protocol) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::clone(&asked),
            _stop: stop.clone().drop_guard(),
        };
        let tasks = TaskTracker::new();
        let connections = tasks.clone();
        tasks.spawn(async move {
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (asked, stop) = (Arc::clone(&asked), stop.clone());
                connections.spawn(async move {
                    let serving = async {
                        match protocol {
                            Protocol::Http => connect(stream, &asked).await,
                            Protocol::Socks5 => socks(stream, &asked).await,
                        }
                    };
                    // How it ends, both sides see.
                    let _ = stop.run_until_cancelled(serving).await;
                });
            }
        });
        proxy
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked for since the last look: a line each.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

async fn connect(mut client: TcpStream, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut lines = head.lines();
    let credentials = lines.find(|line| line.to_ascii_lowercase().starts_with("proxy-auth"));
    let credentials = credentials
        .map(|line| format!(" {line}"))
        .unwrap_or_default();
    asked.lock().unwrap().push(format!("{target}{credentials}"));
    let mut server = TcpStream::connect(&target).await?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// RFC 1928, with the password of RFC 1929 where the client offers one.
async fn socks(mut client: TcpStream, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    client.read_u8().await?;
    let methods = text(&mut client).await?;
    let mut credentials = String::new();
    if methods.contains('\u{2}') {
        client.write_all(&[5, 2]).await?;
        client.read_u8().await?;
        credentials = format!(" {}:{}", text(&mut client).await?, text(&mut client).await?);
        client.write_all(&[1, 0]).await?;
    } else {
        client.write_all(&[5, 0]).await?;
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    let host = match request[3] {
        1 => std::net::Ipv4Addr::from(client.read_u32().await?).to_string(),
        3 => text(&mut client).await?,
        _ => format!("[{}]", std::net::Ipv6Addr::from(client.read_u128().await?)),
    };
    let target = format!("{host}:{}", client.read_u16().await?);
    asked.lock().unwrap().push(format!("{target}{credentials}"));
    let mut server = TcpStream::connect(&target).await?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Bytes with their number before them.
async fn text(client: &mut TcpStream) -> io::Result<String> {
    let mut bytes = vec![0; client.read_u8().await?.into()];
    client.read_exact(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
