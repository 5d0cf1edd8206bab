//! What a blob costs that is pulled for the first time, against what it cannot do without: the
//! hash of its bytes, one copy of them in and one out.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use registry_core::{Algorithm, Digest, Hasher};
use rustix::time::{ClockId, clock_gettime};

use crate::Outcome;
use crate::bench::Bench;
use crate::options::Scale;
use crate::origin::Blob;
use crate::peer::{Peer, Program};
use crate::profile::{Step, Work};
use crate::row::{Row, Series, Target};
use crate::spread::Unit;

/// Times the hash and two copies.
const TARGET: Target = Target::TimesAtMost(1.2);
/// What the baseline reads, hashes and sends at a time: large, and within the processor's caches.
const CHUNK_BYTES: usize = 256 << 10;

pub(crate) fn cpu(bench: &Bench) -> Outcome<Vec<Row>> {
    let mut mirror = Series::new("mirror");
    let mut registry = bench.series(Program::Registry);
    let mut needed = Series::new("SHA-256 and two copies");
    let mut hashed = Series::new("SHA-256 alone");
    let mut filed = Series::new("SHA-256, two copies and a file");
    for round in 0..bench.scale.rounds {
        let blob = bench.origin.new_blob(bench.scale.blob_bytes);
        mirror.push(pull(bench, Program::Mirror, &blob)?.unwrap_or_default());
        let [alone, copied, written] = baselines(bench, blob.size)?;
        hashed.push(alone);
        needed.push(copied);
        filed.push(written);
        if round < bench.scale.long_rounds
            && let Some(taken) = pull(bench, Program::Registry, &blob)?
        {
            registry.push(taken);
        }
    }
    Ok(vec![Row {
        question: format!(
            "Cold {} blob: server CPU",
            Scale::size(bench.scale.blob_bytes)
        ),
        unit: Unit::Seconds,
        target: TARGET,
        mirror,
        against: Some(needed),
        beside: vec![hashed, filed, registry],
    }])
}

/// The processors' time in seconds from the start of a pull until all is stored; none where the
/// program is not installed.
fn pull(bench: &Bench, program: Program, blob: &Blob) -> Outcome<Option<f64>> {
    let Some(peer) = Peer::start(bench, program, &bench.settings())? else {
        return Ok(None);
    };
    let path = peer.blob_path(blob);
    let sent = bench.origin.blob_bytes_sent(&blob.digest);
    let before = peer.process.settled_cpu()?;
    peer.connect()?
        .get_verified(&path, blob.digest, blob.size)?;
    let after = peer.process.settled_cpu()?;
    let sent = bench.origin.blob_bytes_sent(&blob.digest) - sent;
    if program == Program::Mirror && sent != blob.size {
        return Err(format!("{sent} bytes came from upstream for {}", blob.size).into());
    }
    Ok(Some((after - before).as_secs_f64()))
}

/// The seconds of a processor that it takes to hash so many bytes: alone, with a copy in and out,
/// and with a file besides.
fn baselines(bench: &Bench, size: u64) -> Outcome<[f64; 3]> {
    let alone = hash_alone(size);
    let copied = baseline(bench, size, Also::Nothing)?;
    let written = baseline(bench, size, Also::File)?;
    match alone.digest == copied.digest && alone.digest == written.digest {
        true => Ok([alone.cpu, copied.cpu, written.cpu]),
        false => Err("the baselines have not hashed the same".into()),
    }
}

/// What the baseline does besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Also {
    Nothing,
    /// It writes all of it to a file.
    File,
}

/// What was hashed, and the time of the one thread that did it.
#[derive(Clone, Copy, Debug)]
struct Hashed {
    digest: Digest,
    cpu: f64,
}

/// Bytes like all that the baselines hash: what they are makes no difference.
fn page() -> Vec<u8> {
    vec![0x5a; CHUNK_BYTES]
}

fn hash_alone(size: u64) -> Hashed {
    let (page, begun) = (page(), thread_cpu());
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut left = size;
    while left > 0 {
        let part = left.min(CHUNK_BYTES as u64);
        hasher.update(&page[..part as usize]);
        left -= part;
    }
    Hashed {
        digest: hasher.digest(),
        cpu: (thread_cpu() - begun).as_secs_f64(),
    }
}

/// The time of one thread that receives so many bytes from a socket, hashes them and sends them to
/// another: what the two at the other ends take is not counted.
fn baseline(bench: &Bench, size: u64, also: Also) -> Outcome<Hashed> {
    let (origin, incoming) = pair()?;
    let (outgoing, client) = pair()?;
    let file = match also {
        Also::Nothing => None,
        Also::File => Some(tempfile::tempfile_in(bench.folder.path())?),
    };
    thread::scope(|scope| {
        let sending = scope.spawn(move || send(origin, size));
        let reading = scope.spawn(move || discard(client));
        let hashed = relay(incoming, outgoing, file);
        sending.join().map_err(|_| "the sender has panicked")??;
        let read = reading.join().map_err(|_| "the reader has panicked")??;
        match read == size {
            true => hashed,
            false => Err(format!("the baseline has passed on {read} bytes").into()),
        }
    })
}

/// Two ends of a connection over loopback.
fn pair() -> Outcome<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    Ok((one, listener.accept()?.0))
}

fn send(mut to: TcpStream, size: u64) -> Outcome<()> {
    let (page, mut left) = (page(), size);
    while left > 0 {
        let part = left.min(CHUNK_BYTES as u64);
        to.write_all(&page[..part as usize])?;
        left -= part;
    }
    Ok(())
}

fn discard(mut from: TcpStream) -> Outcome<u64> {
    let (mut buffer, mut read) = (page(), 0);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(read),
            some => read += some as u64,
        }
    }
}

/// Until the one end closes; then it closes the other.
fn relay(mut from: TcpStream, mut to: TcpStream, mut file: Option<File>) -> Outcome<Hashed> {
    let (mut buffer, begun) = (page(), thread_cpu());
    let mut hasher = Hasher::new(Algorithm::Sha256);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        let bytes = &buffer[..read];
        hasher.update(bytes);
        if let Some(file) = &mut file {
            file.write_all(bytes)?;
        }
        to.write_all(bytes)?;
    }
    Ok(Hashed {
        digest: hasher.digest(),
        cpu: (thread_cpu() - begun).as_secs_f64(),
    })
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is ever negative.
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

/// For a profile: one blob after the other.
pub(crate) fn work(bench: &Bench) -> Outcome<Work> {
    let peer = Peer::mirror(bench, &bench.settings())?;
    let step: Step = Box::new(|bench, peer| {
        let blob = bench.origin.new_blob(bench.scale.blob_bytes);
        peer.connect()?.get(&peer.blob_path(&blob), blob.size)?;
        Ok(())
    });
    Ok(Work { peer, step })
}
