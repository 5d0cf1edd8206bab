//! Which upstreams keep everybody waiting: what is cached of them is then served without asking.
//!
//! A question that has used up its budget is *overdue*, and until it lands, its upstream is
//! *silent*. Not where the upstream has answered another question since that one was asked: what
//! is slow about one repository says nothing of the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::UpstreamId;

/// What is known of the silence of upstreams; of those that are, or were, configured only, so it is
/// bounded.
#[derive(Default)]
pub(super) struct Outages(Mutex<HashMap<UpstreamId, Silence>>);

/// What is known of one upstream.
#[derive(Default)]
struct Silence {
    /// Questions that it has answered.
    answers: u64,
    /// Questions under way that are overdue, all of them asked since its last answer.
    overdue: usize,
}

impl Outages {
    /// Whether an upstream keeps a question waiting beyond its budget.
    pub(super) fn is_silent(&self, upstream: &UpstreamId) -> bool {
        self.lock()
            .get(upstream)
            .is_some_and(|silence| silence.overdue > 0)
    }

    /// A question to an upstream begins.
    pub(super) fn ask(self: &Arc<Self>, upstream: &UpstreamId) -> Question {
        let answers = self
            .lock()
            .get(upstream)
            .map_or(0, |silence| silence.answers);
        Question {
            outages: Arc::clone(self),
            upstream: upstream.clone(),
            answers,
            is_overdue: false,
        }
    }

    /// Another upstream has this name from now on: what the one before leaves unanswered says
    /// nothing of it.
    pub(super) fn forget(&self, upstream: &UpstreamId) {
        if let Some(silence) = self.lock().get_mut(upstream) {
            silence.answers += 1;
            silence.overdue = 0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UpstreamId, Silence>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question that is under way. However it ends, it is overdue no longer when this is dropped.
pub(super) struct Question {
    outages: Arc<Outages>,
    upstream: UpstreamId,
    /// How many the upstream had answered when this was asked.
    answers: u64,
    is_overdue: bool,
}

impl Question {
    /// Its budget is over.
    pub(super) fn late(&mut self) {
        let mut outages = self.outages.lock();
        let silence = outages.entry(self.upstream.clone()).or_default();
        if silence.answers == self.answers && !self.is_overdue {
            silence.overdue += 1;
            self.is_overdue = true;
        }
    }

    /// The upstream has answered it: it is silent no longer, whatever else is overdue.
    pub(super) fn answered(self) {
        let mut outages = self.outages.lock();
        let silence = outages.entry(self.upstream.clone()).or_default();
        silence.answers += 1;
        silence.overdue = 0;
        // `drop` finds one more answer than there were, and leaves the count alone.
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if self.is_overdue
            && let Some(silence) = self.outages.lock().get_mut(&self.upstream)
            && silence.answers == self.answers
        {
            silence.overdue -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_silent_while_a_question_is_overdue() {
        let outages = Arc::new(Outages::default());
        let [one, two] = ["one.example", "two.example"].map(|id| UpstreamId::parse(id).unwrap());
        let (mut first, mut second) = (outages.ask(&one), outages.ask(&one));
        assert!(!outages.is_silent(&one), "one that is asked is not overdue");
        first.late();
        first.late();
        second.late();
        assert!(outages.is_silent(&one));
        assert!(!outages.is_silent(&two));
        drop(first);
        assert!(outages.is_silent(&one), "the second is waited for still");
        drop(second);
        assert!(!outages.is_silent(&one));
    }

    #[test]
    fn what_another_upstream_of_the_name_leaves_unanswered_is_forgotten() {
        let outages = Arc::new(Outages::default());
        let one = UpstreamId::parse("one.example").unwrap();
        let (mut overdue, mut later) = (outages.ask(&one), outages.ask(&one));
        overdue.late();
        outages.forget(&one);
        later.late();
        assert!(!outages.is_silent(&one));
        let mut anew = outages.ask(&one);
        anew.late();
        drop((overdue, later));
        assert!(outages.is_silent(&one));
    }

    #[test]
    fn an_answer_ends_the_silence_for_what_was_asked_before_it() {
        let outages = Arc::new(Outages::default());
        let one = UpstreamId::parse("one.example").unwrap();
        let (mut overdue, mut later) = (outages.ask(&one), outages.ask(&one));
        overdue.late();
        outages.ask(&one).answered();
        assert!(!outages.is_silent(&one));
        later.late();
        assert!(
            !outages.is_silent(&one),
            "it has answered since that was asked"
        );
        let mut anew = outages.ask(&one);
        anew.late();
        assert!(outages.is_silent(&one));
        // What the answer has made meaningless counts nothing down.
        drop((overdue, later));
        assert!(outages.is_silent(&one));
        drop(anew);
        assert!(!outages.is_silent(&one));
    }
}
