//! How many jobs there are and have been, as metrics.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{JobKind, JobState, OfJobs};

pub(super) const KINDS: [JobKind; 3] = [JobKind::Warm, JobKind::Verify, JobKind::Collect];
const UNFINISHED: [JobState; 2] = [JobState::Queued, JobState::Running];
const ENDED: [JobState; 3] = [JobState::Done, JobState::Failed, JobState::Cancelled];

/// How many jobs have ended since the start, of each kind and in each way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended([[u64; ENDED.len()]; KINDS.len()]);

/// How many jobs there are, in two words each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabels {
    kind: &'static str,
    state: &'static str,
}

impl Ended {
    pub(super) fn count(&mut self, kind: JobKind, state: JobState) {
        let of_kind = KINDS.iter().position(|it| *it == kind);
        let of_state = ENDED.iter().position(|it| *it == state);
        if let Some((kind, state)) = of_kind.zip(of_state) {
            self.0[kind][state] += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = (JobLabels, u64)> {
        let of_kind = KINDS.into_iter().zip(self.0);
        of_kind.flat_map(|(kind, counts)| {
            let of_state = ENDED.into_iter().zip(counts);
            of_state.map(move |(state, count)| (labels(kind, state), count))
        })
    }
}

impl Collector for OfJobs {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (unfinished, ended) = self.0.table().counts();
        let help = "Jobs that were asked for and have not ended, by how they are going.";
        let mut metric = encoder.encode_descriptor("jobs", help, None, MetricType::Gauge)?;
        for kind in KINDS {
            for state in UNFINISHED {
                let is_such = |job: &&(JobKind, JobState)| **job == (kind, state);
                let count = unfinished.iter().filter(is_such).count();
                let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
                count.encode(metric.encode_family(&labels(kind, state))?)?;
            }
        }
        let help = "Jobs that have ended, by how.";
        let mut metric =
            encoder.encode_descriptor("jobs_ended", help, None, MetricType::Counter)?;
        for (labels, count) in ended.iter() {
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl fmt::Debug for OfJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfJobs").finish_non_exhaustive()
    }
}

fn labels(kind: JobKind, state: JobState) -> JobLabels {
    let kind = match kind {
        JobKind::Warm => "warm",
        JobKind::Verify => "verify",
        JobKind::Collect => "collect",
    };
    let state = match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    };
    JobLabels { kind, state }
}
