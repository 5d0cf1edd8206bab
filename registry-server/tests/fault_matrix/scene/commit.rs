//! Committing a fault, and lifting it.

use std::time::Duration;

use http::Method;
use registry_server::testing::{Certificate, Fault, Match, Object as Asked, Times};

use super::stage::Backlog;
use super::{BLOB_BYTES, Scene};
use crate::faults::Strike;
use crate::table::Object;

/// How long everything that an upstream has said is remembered for, and longer.
const LONG: Duration = Duration::from_secs(3600);

impl Scene<'_> {
    /// What is wrong with the upstream as a whole. Its connections are cut.
    pub(super) async fn begin_fault(&mut self) {
        match &self.spec.strike {
            Strike::Refused => self.origin.stop().await,
            Strike::Backlog => {
                self.origin.stop().await;
                self.backlog = Some(Backlog::at(self.origin.address()).await);
            }
            Strike::Certificate(certificate) => {
                self.origin.show_certificate(*certificate);
                self.origin.stop().await;
                self.origin.restart().await;
            }
            Strike::Behave(change) => self.origin.behave(change),
            Strike::Token(_) | Strike::Unauthorized => self.origin.revoke_tokens(),
            _ => {}
        }
    }

    /// Scripts what is wrong with its answers, the first of which is held before that.
    pub(super) fn arm(&self, hold: Option<Fault>) {
        let fault = match &self.spec.strike {
            Strike::Answer(fault) | Strike::Token(fault) => fault.clone(),
            Strike::Length(fault) => fault(self.length()),
            Strike::Unauthorized => self.challenge(),
            Strike::Body(fault) => return self.arm_bodies(*fault, hold),
            _ => {
                if let Some(hold) = hold {
                    self.origin.fault(self.first_match(), Times::Once, hold);
                }
                return;
            }
        };
        if hold.is_some() || self.spec.once {
            let faults = hold.into_iter().chain([fault.clone()]).collect();
            let first = Fault::Several(faults);
            self.origin.fault(self.first_match(), Times::Once, first);
        }
        if !self.spec.once {
            for matched in self.matches() {
                self.origin.fault(matched, Times::Always, fault.clone());
            }
        }
    }

    fn arm_bodies(&self, fault: fn(u64) -> Fault, hold: Option<Fault>) {
        let at = self.length() / 2;
        let bodies = match self.cell.object {
            Object::Blob | Object::BlobHead => Match::blob(self.blob),
            Object::Tag | Object::Manifest => Match::object(Asked::ManifestByDigest),
        };
        let bodies = bodies.with_method(Method::GET);
        let whole = fault(at);
        if let Some(hold) = hold {
            let first = Fault::Several(vec![hold, whole.clone()]);
            self.origin.fault(bodies.clone(), Times::Once, first);
        } else if self.spec.once {
            let bodies = bodies.clone();
            self.origin.fault(bodies, Times::Once, whole.clone());
        }
        if !self.spec.once {
            self.origin
                .fault(bodies.clone().wholes(), Times::Always, whole);
            // What goes on after half of it finds the same fault at the same place.
            let rest = fault(0);
            self.origin.fault(bodies.parts(), Times::Always, rest);
        }
    }

    /// The length of the body that is asked for.
    fn length(&self) -> u64 {
        match self.cell.object {
            Object::Blob | Object::BlobHead => BLOB_BYTES,
            Object::Tag | Object::Manifest => {
                let bytes = self.origin.bytes(&self.current).unwrap();
                bytes.len() as u64
            }
        }
    }

    /// The first request that is made.
    fn first_match(&self) -> Match {
        if matches!(self.spec.strike, Strike::Token(_)) {
            return Match::object(Asked::Token);
        }
        Match::object(match self.cell.object {
            Object::Tag => Asked::ManifestByTag,
            Object::Manifest => Asked::ManifestByDigest,
            Object::Blob | Object::BlobHead => Asked::Blob,
        })
    }

    /// All requests that the fault befalls.
    fn matches(&self) -> Vec<Match> {
        let mut matches = vec![self.first_match()];
        if self.cell.object == Object::Tag {
            matches.push(Match::object(Asked::ManifestByDigest));
        }
        if self.spec.is_of_all() {
            matches.push(Match::object(Asked::Ping));
        }
        matches
    }

    fn challenge(&self) -> Fault {
        let realm = format!("{}/token", self.origin.url());
        let challenge = format!("Bearer realm=\"{realm}\",service=\"fixture\"");
        Fault::status_with(401, &[("WWW-Authenticate", &challenge)])
    }

    /// The fault is over, and what was remembered of it is forgotten.
    pub(super) async fn lift(&mut self) {
        self.origin.clear_faults();
        self.origin
            .behave(|behaviour| *behaviour = Default::default());
        match &self.spec.strike {
            Strike::Refused => self.origin.restart().await,
            Strike::Backlog => {
                self.backlog = None;
                self.origin.restart().await;
            }
            Strike::Certificate(_) => {
                self.origin.show_certificate(Certificate::Good);
                self.origin.stop().await;
                self.origin.restart().await;
            }
            _ => {}
        }
        self.clock.advance(LONG);
    }
}
