//! How much memory slow clients cost: of a blob that is held, and of one that is coming.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::Outcome;
use crate::bench::{Bench, in_order};
use crate::options::Scale;
use crate::peer::{Peer, Program};
use crate::row::{Row, Series, Target};
use crate::spread::Unit;

/// Of one that is held, and of one that is coming; and the most that may then be resident, in
/// millions of bytes.
const WARM_CLIENTS: usize = 256;
const WARM_TARGET: Target = Target::AtMost(24.0);
const COLD_CLIENTS: usize = 64;
const COLD_TARGET: Target = Target::AtMost(40.0);

/// What a slow client reads at a time, and how long it rests after that.
const SIP_BYTES: usize = 8 << 10;
const REST: Duration = Duration::from_millis(20);
/// Small, so that a client's slowness reaches the server instead of the kernel's buffers.
const RECEIVE_BUFFER_BYTES: u32 = 64 << 10;
/// What every answer begins with, and how long it may take until then.
const STATUS: &[u8; 12] = b"HTTP/1.1 200";
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Parts of the blob that come from upstream while it is looked at: the fill runs all the time.
const COLD_PART: u64 = 2;

pub(crate) fn slow_clients(bench: &Bench) -> Outcome<Vec<Row>> {
    let size = Scale::size(bench.scale.blob_bytes);
    let mut rows = Vec::new();
    let series = warm(bench)?;
    let question =
        format!("{WARM_CLIENTS} slow clients of a warm {size} blob: most memory resident");
    rows.push(row(question, WARM_TARGET, series)?);
    let series = cold(bench)?;
    let question = format!("{COLD_CLIENTS} slow clients of a {size} blob that is being filled");
    rows.push(row(question, COLD_TARGET, series)?);
    Ok(rows)
}

fn row(question: String, target: Target, series: Vec<Series>) -> Outcome<Row> {
    let [mirror, nginx, registry] = in_order(series)?;
    Ok(Row {
        question,
        unit: Unit::Megabytes,
        target,
        mirror,
        against: None,
        beside: vec![nginx, registry],
    })
}

/// Each time with new processes over the same content: the most that was ever resident is told of
/// a process, and not of a time.
fn warm(bench: &Bench) -> Outcome<Vec<Series>> {
    let blob = bench.origin.new_blob(bench.scale.blob_bytes);
    bench.publish_blob(&blob)?;
    let mut series = Vec::new();
    for program in Program::ALL {
        let data = tempfile::tempdir_in(bench.folder.path())?;
        let mut settings = bench.settings();
        settings.data = Some(data.path().to_owned());
        let Some(first) = Peer::start(bench, program, &settings)? else {
            series.push(bench.series(program));
            continue;
        };
        first.warm(bench, &blob)?;
        first.process.stop()?;
        let mut told = Series::new(program.name());
        for _ in 0..bench.scale.long_rounds {
            let peer = Peer::start(bench, program, &settings)?.ok_or("it was there before")?;
            sips(bench, &peer, &peer.blob_path(&blob), WARM_CLIENTS)?;
            told.push(megabytes(&peer));
        }
        series.push(told);
    }
    bench.unpublish()?;
    Ok(series)
}

fn cold(bench: &Bench) -> Outcome<Vec<Series>> {
    let mut series = Vec::new();
    let size = bench.scale.blob_bytes;
    let rate = size / COLD_PART / bench.scale.slow_time.as_secs().max(1);
    bench
        .origin
        .registry
        .behave(|behaviour| behaviour.bytes_per_second = Some(rate));
    for program in [Program::Mirror, Program::Registry] {
        let mut told = Series::new(program.name());
        for _ in 0..bench.scale.long_rounds {
            let blob = bench.origin.new_blob(size);
            let Some(peer) = Peer::start(bench, program, &bench.settings())? else {
                told = bench.series(program);
                break;
            };
            sips(bench, &peer, &peer.blob_path(&blob), COLD_CLIENTS)?;
            told.push(megabytes(&peer));
            let sent = bench.origin.blob_bytes_sent(&blob.digest);
            if sent == 0 || (program == Program::Mirror && sent >= size) {
                return Err(format!("{sent} bytes of {size}: it was not being filled").into());
            }
        }
        series.push(told);
        if program == Program::Mirror {
            series.push(Series::absent("nginx", "fills nothing"));
        }
    }
    bench
        .origin
        .registry
        .behave(|behaviour| behaviour.bytes_per_second = None);
    Ok(series)
}

fn megabytes(peer: &Peer) -> f64 {
    peer.process.peak_bytes() as f64 / 1e6
}

/// So many clients read slowly for a while, each of which gets something.
fn sips(bench: &Bench, peer: &Peer, path: &str, clients: usize) -> Outcome<()> {
    let until = Instant::now() + bench.scale.slow_time;
    let sipping = (0..clients).map(|_| sip(peer.address, path, until));
    bench.origin.runtime().block_on(try_join_all(sipping))?;
    Ok(())
}

/// Reads a little, rests, and so on.
async fn sip(address: SocketAddr, path: &str, until: Instant) -> Outcome<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    let mut stream = socket.connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: mirror\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; STATUS.len()];
    timeout(ANSWER_MAX, stream.read_exact(&mut status)).await??;
    if &status != STATUS {
        return Err(format!("{path}: {}", String::from_utf8_lossy(&status)).into());
    }
    let mut buffer = vec![0; SIP_BYTES];
    while Instant::now() < until {
        match timeout_at(until, stream.read(&mut buffer)).await {
            Ok(Ok(0)) => return Err("a slow client was cut off".into()),
            Ok(read) => _ = read?,
            Err(_) => break,
        }
        sleep(REST).await;
    }
    Ok(())
}
