//! The command line: everything that can be typed behind the program's name, with its help.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use registry_server::config::Flags;
use registry_server::hosts_toml::parse_mirror_url;
use url::Url;

/// The end of the help: what flags cannot say.
const FILE_HELP: &str = r#"An example of a configuration file:

  tag_ttl = "1m"

  [upstream."registry.example.org"]
  endpoints = ["https://registry.example.org", "https://standby.example.org"]
  tag_ttl = "0s"
  tag_budget = "3s"       # how long a pull waits for it where something cached can answer
  on_not_found = "stale"  # or "forward": what is gone there is gone here

  [upstream."registry.example.org".repository."org/**"]
  max_size = "20GiB"      # most bytes to keep of these
  frozen = true           # tags that are cached are never asked for again

An upstream also takes ca_file, client_cert_file with client_key_file, insecure_skip_verify, realms,
proxy, no_proxy, connect_budget, headers_budget, body_idle_budget, total_budget,
next_endpoint_on_not_found and private_redirects; and credentials: username with password,
password_file or password_env, or docker_config, or credential_helper, also for the repositories
below a prefix, in a table such as [upstream."ghcr.io".credentials."org/team"]; and
credential_hosts. Without proxy, those of the environment are used: HTTPS_PROXY, HTTP_PROXY,
ALL_PROXY and NO_PROXY.

Both tables, that of an upstream and that of its repositories, also take max_idle and evict (false:
stay, whatever the limits). Where several patterns match, the most specific decides."#;

/// The end of the help of each command that asks a mirror.
const EXIT_HELP: &str = "Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 the mirror cannot \
                         be reached, 5 done in part.";

/// One process that mirrors every container registry a cluster pulls from.
///
/// Point containerd at it with the hosts.toml that it prints at start; docker, podman and others
/// reach any registry through it by path, as in 127.0.0.1:5000/quay.io/org/app:tag. What was pulled
/// once is served from the data folder, also when its registry does not answer.
///
/// Without a command, it serves. Each setting is a flag, an environment variable or a key of the
/// configuration file, in this order; what none of them says has a default. The other commands ask
/// a mirror that runs.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, max_term_width = 100)]
#[command(after_long_help = FILE_HELP)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) flags: Flags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve until SIGTERM or SIGINT; a second one ends at once what is still being answered. On
    /// SIGHUP, and when the configuration file has changed, it is read again
    Serve(Box<Flags>),
    #[command(flatten)]
    Operate(Operate),
    /// Print the hosts.toml that points containerd at a mirror
    HostsToml(HostsToml),
    /// Print what makes a shell complete these commands
    ///
    /// For bash, in ~/.bashrc: source <(registry-server completions bash)
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual, or write a page for each command into a folder
    Man {
        /// Folder to write them into, such as /usr/local/share/man/man1
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct HostsToml {
    /// URL under which nodes reach the mirror [default: made of the address it is configured to
    /// listen on]
    #[arg(long, value_parser = parse_mirror_url)]
    pub(crate) url: Option<Url>,
}

/// What is asked of a mirror that runs.
#[derive(Debug, Subcommand)]
pub(crate) enum Operate {
    /// Show how the mirror is: health, room, hits, upstreams, jobs
    #[command(after_help = EXIT_HELP)]
    Status(Status),
    /// Say what is cached of an image, since when, from where, and what the next pull would do
    #[command(after_help = EXIT_HELP)]
    Why(One),
    /// List what is cached: repositories, or the images of one
    #[command(after_help = EXIT_HELP)]
    Ls(Ls),
    /// Show what takes how much room
    #[command(after_help = EXIT_HELP)]
    Df(Df),
    /// Fetch images before anybody pulls them
    ///
    /// Images are named as arguments, in files, or on standard input ("-"): a list with one a line,
    /// Kubernetes objects as `helm template` or `kubectl kustomize` print them, or a compose file.
    #[command(after_help = EXIT_HELP)]
    Warm(Warm),
    /// Keep images whatever happens, with all that they need
    ///
    /// A pin is an image by tag or digest, or a pattern: "docker.io/library/*", "ghcr.io/org/**:v1.*"
    /// (* within a part of the name, ** across parts). It may be set before the image is here.
    #[command(after_help = EXIT_HELP)]
    Pin(Several),
    /// Take pins away
    #[command(after_help = EXIT_HELP)]
    Unpin(Several),
    /// List the pins
    #[command(after_help = EXIT_HELP)]
    Pins(Plain),
    /// Remove images from the cache
    ///
    /// A name may be a pattern, as "docker.io/library/*:3.*". The next pull fetches them again.
    #[command(after_help = EXIT_HELP)]
    Rm(Rm),
    /// Hash what is kept again, and forget what is damaged
    #[command(after_help = EXIT_HELP)]
    Verify(Verify),
    /// Evict what is over the limits, the least recently used first
    #[command(after_help = EXIT_HELP)]
    Gc(Gc),
    /// List, watch or cancel long work: warm, verify, gc
    #[command(after_help = EXIT_HELP, args_conflicts_with_subcommands = false)]
    Jobs(Jobs),
    /// Write images into one archive, with their signatures, for where no network reaches
    ///
    /// The archive is an OCI image layout in a tar: `registry-server import` takes it, and so do
    /// skopeo, podman and containerd. What is not cached is fetched on the way.
    #[command(after_help = EXIT_HELP)]
    Export(Export),
    /// Take the images of an archive, so that they can be pulled without any network
    ///
    /// The archive is an OCI image layout in a tar, also with gzip: by `registry-server export`,
    /// `docker save` from version 25, `skopeo copy … oci-archive:FILE` or `podman save --format
    /// oci-archive`.
    #[command(after_help = EXIT_HELP)]
    Import(Import),
    /// Have the mirror read its configuration again
    #[command(after_help = EXIT_HELP)]
    Reload(Plain),
}

/// Which mirror is asked, and how its answer is shown.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "The mirror, and how it is shown")]
pub(crate) struct Ask {
    /// URL of its admin API [env: REGISTRY_ADMIN] [default: http://127.0.0.1:5001, or the
    /// admin_listen of its configuration, where that is named]
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) admin: Option<String>,

    /// File that holds its admin token [env: REGISTRY_ADMIN_TOKEN_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) admin_token_file: Option<PathBuf>,

    /// Its configuration file, to find it by [env: REGISTRY_CONFIG]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,

    /// Print the answer as one JSON document
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// When to use colours [default: auto: on a terminal, unless NO_COLOR is set]
    #[arg(long, value_name = "WHEN", global = true, hide_default_value = true)]
    #[arg(value_enum, default_value_t)]
    pub(crate) color: Color,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal.
    #[default]
    Auto,
    /// Also in a pipe or a file.
    Always,
    /// Nowhere.
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct Plain {
    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show also the upstreams of which there is no news
    #[arg(short, long)]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// The image, as docker.io/library/alpine:3.20 or as people write it: alpine
    pub(crate) image: String,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Several {
    /// Images or patterns
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// By what lists are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// By name.
    #[default]
    Name,
    /// The biggest first.
    Size,
    /// The least recently pulled first, which are evicted first.
    Age,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// A repository (docker.io/library/alpine, or alpine), whose images are listed, or an upstream
    /// (docker.io), whose repositories are; without one, all repositories
    pub(crate) what: Option<String>,

    /// List the images of all repositories
    #[arg(short, long)]
    pub(crate) all: bool,

    /// What comes first
    #[arg(short, long, value_name = "BY", value_enum, default_value_t)]
    pub(crate) sort: Sort,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Df {
    /// Only this upstream
    pub(crate) upstream: Option<String>,

    /// Show only so many repositories of each upstream, the biggest; 0 shows all
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    pub(crate) top: usize,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Images or patterns
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,

    /// Ask nothing, also before removing several
    #[arg(short, long)]
    pub(crate) yes: bool,

    /// Only tell what would be removed
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// How long work is watched.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Watching {
    /// Print the number of the job, and do not wait for its end
    #[arg(short, long)]
    pub(crate) detach: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Warm {
    /// Images; "-" reads them from standard input
    #[arg(value_name = "IMAGE", required_unless_present = "files")]
    pub(crate) images: Vec<String>,

    /// Read images from a file: a list with one a line, Kubernetes objects, or a compose file
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// What files and standard input hold
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,

    /// Platforms to fetch, as linux/amd64,linux/arm64 [default: Linux on this machine's processor]
    #[arg(
        short,
        long = "platform",
        value_name = "PLATFORM",
        value_delimiter = ','
    )]
    pub(crate) platforms: Vec<String>,

    /// Fetch every platform that there is
    #[arg(long, conflicts_with = "platforms")]
    pub(crate) all_platforms: bool,

    /// Fetch also what is attached to them: signatures, attestations, bills of materials
    #[arg(long)]
    pub(crate) attached: bool,

    /// Only tell which images were found
    #[arg(short = 'n', long, conflicts_with = "detach")]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) watching: Watching,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// What a text that names images is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Found out; an error where it is none of the others.
    #[default]
    Auto,
    /// One image a line, # begins a comment.
    List,
    /// Kubernetes objects, as helm template prints them.
    Kubernetes,
    /// A compose file.
    Compose,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Only this image; everything without it
    pub(crate) image: Option<String>,

    /// How much to read each second, as 50MiB [default: the mirror's verify_rate]
    #[arg(long, value_name = "SIZE")]
    pub(crate) rate: Option<ByteSize>,

    #[command(flatten)]
    pub(crate) watching: Watching,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Evict further, until no more than this is kept, as 20GiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) to: Option<ByteSize>,

    /// Only tell what would be evicted
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) watching: Watching,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,

    /// File to write; "-" writes to standard output
    #[arg(short, long, value_name = "FILE", required_unless_present = "dry_run")]
    pub(crate) output: Option<PathBuf>,

    /// Platforms to take along, as linux/amd64,linux/arm64 [default: those that are cached, or else
    /// the mirror's own]
    #[arg(
        short,
        long = "platform",
        value_name = "PLATFORM",
        value_delimiter = ','
    )]
    pub(crate) platforms: Vec<String>,

    /// Take every platform along that there is
    #[arg(long, conflicts_with = "platforms")]
    pub(crate) all_platforms: bool,

    /// Ask no registry for anything: leave out what is not cached
    #[arg(long)]
    pub(crate) held_only: bool,

    /// Leave out signatures, attestations, SBOMs and other referrers
    #[arg(long)]
    pub(crate) no_signatures: bool,

    /// Only tell what would be written
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Archive to read; "-" reads standard input
    #[arg(value_name = "FILE")]
    pub(crate) archive: PathBuf,

    /// Name of the archive's one image, where it does not say which registry it is from, or is to
    /// have another name here: docker.io/library/alpine:3.20
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Jobs {
    #[command(subcommand)]
    pub(crate) command: Option<JobsCommand>,

    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List them, the latest first
    List,
    /// Watch one until it ends
    Watch {
        /// Its number
        id: u64,
    },
    /// End one before it is done
    Cancel {
        /// Its number
        id: u64,
    },
}
