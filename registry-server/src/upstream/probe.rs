//! Finding out whether an endpoint that failed is well again, without a client that waits for it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::address::Reach;
use super::breaker::Sign;
use super::clients::Sending;
use super::config::ILL_PROBES_MAX;
use super::observer::RequestKind;
use super::redirect::{Hop, host_of};
use super::reply::Reply;
use super::transport::{Transport, ping_url};

impl Transport {
    /// Says that an endpoint is not asked any more, and probes it until it is well. One task for
    /// each endpoint at the most: one that is rested is not found failing again.
    pub(super) fn rest(self: &Arc<Self>, number: usize, why: &str) {
        let endpoint = &self.endpoints[number];
        warn!(
            upstream = %self.id,
            endpoint = endpoint.name(),
            why,
            "the endpoint failed: it is probed, and not asked until it is well"
        );
        if let Some(observer) = &self.observer {
            observer.endpoint_turned(endpoint.name(), false);
        }
        let stop = self.stop.clone();
        let resting = Resting {
            transport: Arc::clone(self),
            number,
        };
        self.tasks.spawn(async move {
            stop.run_until_cancelled(resting.until_well()).await;
        });
    }

    /// How an endpoint answers. Well: it says neither that it cannot serve nor that it has enough of
    /// us. That it wants to know who asks is an answer.
    async fn probe(&self, number: usize) -> Sign {
        let root = &self.roots[number];
        let hop = Hop::first(ping_url(root));
        let deadline = Instant::now() + self.budgets.headers;
        let sending = Sending {
            kind: RequestKind::Probe,
            method: Method::GET,
            hop: &hop,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            from: (root, Reach::Public),
            deadline,
        };
        let Ok(sent) = self.clients.send(sending).await else {
            return Sign::Dead;
        };
        let reply = Reply::new(sent, host_of(root), true);
        let status = reply.status();
        reply.drain().await;
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            Sign::Ill
        } else {
            Sign::Well
        }
    }
}

/// An endpoint that is not asked. However its probes end, it is asked again afterwards: none stays
/// shut that nobody looks after.
struct Resting {
    transport: Arc<Transport>,
    number: usize,
}

impl Resting {
    async fn until_well(self) {
        let endpoint = &self.transport.endpoints[self.number];
        let mut ill = 0;
        // Some answer nothing but errors at `/v2/`, and serve content all the same. Such an answer
        // costs no time, so that a real question may find out.
        while ill < ILL_PROBES_MAX {
            sleep(endpoint.next_probe(&self.transport.probes)).await;
            match self.transport.probe(self.number).await {
                Sign::Well => return,
                Sign::Ill => ill += 1,
                Sign::Dead => ill = 0,
            }
        }
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        let endpoint = &self.transport.endpoints[self.number];
        let Some(rested) = endpoint.close() else {
            return;
        };
        if self.transport.stop.is_cancelled() {
            return;
        }
        info!(
            upstream = %self.transport.id,
            endpoint = endpoint.name(),
            ?rested,
            "the endpoint is asked again"
        );
        if let Some(observer) = &self.transport.observer {
            observer.endpoint_turned(endpoint.name(), true);
        }
    }
}
