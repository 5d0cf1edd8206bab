//! `export`, `import`: images to and from an archive.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use registry_server::api::{ArchivedImage, ExportReport, ExportRequest, ImportReport};
use registry_server::archive::ArchiveBytes;
use tokio::fs::{self, File};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::Session;
use super::failure::{Exit, Failure};
use super::line::{Export, Import};
use super::screen::{BOLD, DIM, GOOD, Screen, paint};
use super::words::{many, size};

/// What stands for standard input and output.
const STANDARD: &str = "-";
/// Bytes of a file that are read at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Between two lines where there is no terminal to draw on.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub(super) async fn export(session: &Session, export: &Export) -> Result<Exit, Failure> {
    let screen = &session.screen;
    let mut request = ExportRequest {
        images: export.images.clone(),
        platforms: export.platforms.clone(),
        all_platforms: export.all_platforms,
        attached: !export.no_signatures,
        held_only: export.held_only,
        dry_run: true,
    };
    let is_standard = export.output.as_deref() == Some(Path::new(STANDARD));
    if is_standard && io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "an archive is nothing for a terminal: name a file with -o".to_owned(),
        ));
    }
    screen.remark("looking for all that belongs to it");
    let report: ExportReport = session.client.post("export", &request).await?;
    let Some(output) = export.output.as_deref().filter(|_| !export.dry_run) else {
        screen.show(&report, |report| exported(report, "would be written"))?;
        return Ok(Exit::Done);
    };
    request.dry_run = false;
    let (length, archive) = session.client.download("export", &request).await?;
    let mut bar = Bar::new(screen, Some(length));
    if is_standard {
        receive(archive, length, as_file(&io::stdout())?, &mut bar).await?;
        bar.clear();
        screen.remark(exported(&report, "were written").trim_end());
        return Ok(Exit::Done);
    }
    write_file(archive, length, output, &mut bar).await?;
    bar.clear();
    let to = format!("are in {}", output.display());
    screen.show(&report, |report| exported(report, &to))?;
    Ok(Exit::Done)
}

/// Writes an archive under its name once all of it is there.
async fn write_file(
    archive: ArchiveBytes,
    length: u64,
    path: &Path,
    bar: &mut Bar<'_>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Failed(format!("{}: {error}", path.display()));
    let mut partial = OsString::from(path);
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let mut file = File::create(&partial).await.map_err(failed)?;
    let mut written = receive(archive, length, &mut file, bar).await;
    if written.is_ok() {
        // It is about to be carried away.
        written = file.sync_all().await.map_err(failed);
    }
    if written.is_err() {
        // What is left of it would be of no use to anybody.
        let _ = fs::remove_file(&partial).await;
        return written;
    }
    fs::rename(&partial, path).await.map_err(failed)
}

/// Writes an archive, and makes sure that it is all there.
async fn receive(
    mut archive: ArchiveBytes,
    length: u64,
    mut to: impl AsyncWrite + Unpin,
    bar: &mut Bar<'_>,
) -> Result<(), Failure> {
    let mut received = 0;
    while let Some(chunk) = archive.next().await {
        let chunk = chunk.map_err(|error| broken_off(received, length, &error.to_string()))?;
        to.write_all(&chunk).await?;
        received += chunk.len() as u64;
        bar.draw(received);
    }
    to.flush().await?;
    match received == length {
        true => Ok(()),
        false => Err(broken_off(received, length, "the connection was closed")),
    }
}

fn broken_off(received: u64, length: u64, why: &str) -> Failure {
    let (received, length) = (size(received), size(length));
    Failure::Failed(format!(
        "the archive broke off after {received} of {length}, and is not kept ({why}): the log of \
         the mirror says what could not be had"
    ))
}

fn exported(report: &ExportReport, what: &str) -> String {
    let mut text = images(&report.images);
    for left in &report.left_out {
        let part = left.platform.as_ref().unwrap_or(&left.digest);
        let line = format!("not taken along: {part} of {}", left.image);
        text += &format!("{}\n", paint(DIM, line));
    }
    let count = many(report.images.len() as u64, "image", "images");
    let count = match report.attached {
        0 => count,
        attached => {
            let attached = many(attached, "signature or the like", "signatures and the like");
            format!("{count} and {attached}")
        }
    };
    text + &format!("{count}, {}, {what}\n", size(report.bytes))
}

fn images(images: &[ArchivedImage]) -> String {
    let line = |image: &ArchivedImage| {
        let name = paint(BOLD, &image.name);
        match image.platforms.join(", ") {
            none if none.is_empty() => format!("{name}\n"),
            platforms => format!("{name}  {}\n", paint(DIM, platforms)),
        }
    };
    images.iter().map(line).collect()
}

pub(super) async fn import(session: &Session, import: &Import) -> Result<Exit, Failure> {
    let screen = &session.screen;
    let path = import.archive.as_path();
    let (archive, length) = if path == Path::new(STANDARD) {
        if io::stdin().is_terminal() {
            return Err(Failure::Usage(
                "no archive comes from a terminal: name a file, or send one through a pipe"
                    .to_owned(),
            ));
        }
        (chunks(as_file(&io::stdin())?), None)
    } else {
        let failed = |error| Failure::Failed(format!("{}: {error}", path.display()));
        let file = File::open(path).await.map_err(failed)?;
        let length = file.metadata().await.map_err(failed)?.len();
        (chunks(file), Some(length))
    };
    let bar = Bar::new(screen, length);
    let drawn = bar.clone_bar();
    let archive = archive.inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            drawn.inc(chunk.len() as u64);
        }
    });
    let query: Vec<_> = import.name.iter().map(|name| ("as", &**name)).collect();
    let client = &session.client;
    let report = client.upload("import", &query, archive.boxed()).await;
    bar.clear();
    let report: ImportReport = report?;
    screen.show(&report, imported)?;
    for failure in &report.failures {
        screen.complain(format!("{}: {}", failure.name, failure.reason));
    }
    Ok(Exit::of(report.images.len(), report.failures.len()))
}

fn imported(report: &ImportReport) -> String {
    let mut text = images(&report.images);
    let count = many(report.images.len() as u64, "image", "images");
    let done = paint(GOOD, format!("{count} can be pulled"));
    text += &format!("{done}: {} new", size(report.bytes));
    if report.contents_held > 0 {
        text += &format!(", {} were here already", size(report.bytes_held));
    }
    if report.attached > 0 {
        let attached = many(
            report.attached,
            "signature or the like",
            "signatures and the like",
        );
        text += &format!(", with {attached}");
    }
    text.push('\n');
    text
}

/// Standard input or output as a file: without the lines and buffers of the library's own.
fn as_file(standard: &impl AsFd) -> Result<File, Failure> {
    let descriptor = standard.as_fd().try_clone_to_owned()?;
    Ok(File::from_std(descriptor.into()))
}

/// The bytes of a file as they are read.
fn chunks(file: impl AsyncRead + Send + Unpin + 'static) -> ArchiveBytes {
    stream::try_unfold(file, async |mut file| {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let read = file.read_buf(&mut chunk).await?;
        let chunk: Bytes = chunk.freeze();
        Ok((read > 0).then_some((chunk, file)))
    })
    .boxed()
}

/// How far an archive has come: a bar on a terminal, otherwise lines from time to time.
struct Bar<'s> {
    screen: &'s Screen,
    bar: ProgressBar,
    length: Option<u64>,
    said: Option<Instant>,
}

impl<'s> Bar<'s> {
    fn new(screen: &'s Screen, length: Option<u64>) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let bar = match is_terminal {
            true => ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr()),
            false => ProgressBar::hidden(),
        };
        let template = match length {
            Some(_) => "{spinner} {bar:24} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            None => "{spinner} {bytes}, {bytes_per_sec}",
        };
        let style = ProgressStyle::with_template(template).expect("the templates are right");
        bar.set_style(style.progress_chars("██░"));
        Self {
            screen,
            bar,
            length,
            said: (!is_terminal).then(Instant::now),
        }
    }

    /// The bar alone, for who cannot say more.
    fn clone_bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    fn draw(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        if let Some(said) = &mut self.said
            && said.elapsed() >= LINE_INTERVAL
        {
            *said = Instant::now();
            let total = self.length.map(|length| format!(" of {}", size(length)));
            let line = format!("{}{}", size(bytes), total.unwrap_or_default());
            self.screen.remark(&line);
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
