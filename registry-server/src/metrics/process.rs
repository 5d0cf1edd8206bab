//! What the kernel tells of this process, under the names that every client library has for it.

use std::fmt;

use procfs::process::{LimitValue, Process, Stat};
use procfs::{ProcResult, ticks_per_second};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::gauge;

/// The process, at the moment of a scrape. What cannot be read is left out: `/proc` may be hidden.
#[derive(Debug)]
pub(super) struct OfProcess;

/// One reading.
struct Facts {
    stat: Stat,
    open_files: Option<u64>,
    open_files_max: Option<u64>,
    booted_at: Option<u64>,
}

impl Facts {
    fn read() -> ProcResult<Self> {
        let process = Process::myself()?;
        let limits = process.limits().ok();
        Ok(Self {
            stat: process.stat()?,
            open_files: process.fd_count().ok().map(|count| count as u64),
            open_files_max: limits.and_then(|limits| match limits.max_open_files.soft_limit {
                LimitValue::Value(files) => Some(files),
                LimitValue::Unlimited => None,
            }),
            booted_at: procfs::boot_time_secs().ok(),
        })
    }
}

impl Collector for OfProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Ok(facts) = Facts::read() else {
            return Ok(());
        };
        let mut tell = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            let kind = metric.metric_type();
            metric.encode(encoder.encode_descriptor(name, help, None, kind)?)
        };
        let ticks = ticks_per_second() as f64;
        let stat = &facts.stat;
        let busy = (stat.utime + stat.stime) as f64 / ticks;
        tell(
            "process_cpu_seconds",
            "Time that processors spent on this process.",
            &ConstCounter::new(busy),
        )?;
        if let Some(booted_at) = facts.booted_at {
            let started = booted_at as f64 + stat.starttime as f64 / ticks;
            tell(
                "process_start_time_seconds",
                "When this process started.",
                &ConstGauge::new(started),
            )?;
        }
        let resident = stat.rss.saturating_mul(procfs::page_size());
        tell(
            "process_resident_memory_bytes",
            "Memory of this process that is in use.",
            &gauge(resident),
        )?;
        tell(
            "process_virtual_memory_bytes",
            "Addresses that this process has asked for.",
            &gauge(stat.vsize),
        )?;
        for (name, help, files) in [
            (
                "process_open_fds",
                "Open files and sockets.",
                facts.open_files,
            ),
            (
                "process_max_fds",
                "How many files and sockets may be open.",
                facts.open_files_max,
            ),
        ] {
            if let Some(files) = files {
                tell(name, help, &gauge(files))?;
            }
        }
        Ok(())
    }
}
