//! Clocks on walls that differ between hosts.
//!
//! Owns which host's program is at work: turmoil enters a span with the host's name around each of its steps, and who
//! listens to that sets the clock. All other spans and events go on to a subscriber that shows them, if there is one.
//! Installed by `main`, told of the hosts by the world.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};

use crate::nature;

/// Ids of spans of hosts have this bit, and the seconds by which the host's clock is ahead.
const OF_HOST: u64 = 1 << 62;
/// Other spans have ids with that bit too, once there were many; none that is near this.
const SHIFT: i64 = 1 << 40;
/// No clock is ahead or behind by as many seconds.
const MOST: i64 = 1 << 20;

/// By how many seconds the clocks of hosts are ahead.
static AHEAD: Mutex<BTreeMap<String, i64>> = Mutex::new(BTreeMap::new());

/// The clocks of these hosts are ahead by so many seconds.
pub(crate) fn set(ahead: BTreeMap<String, i64>) {
    *AHEAD.lock().unwrap_or_else(PoisonError::into_inner) = ahead;
}

/// The clock of this host is ahead by so many seconds now.
pub(crate) fn set_one(host: &str, ahead: i64) {
    let mut clocks = AHEAD.lock().unwrap_or_else(PoisonError::into_inner);
    clocks.insert(host.to_owned(), ahead);
}

/// Listens, in front of another one.
#[derive(Debug)]
pub(crate) struct Clocks<S> {
    shows: S,
}

impl<S> Clocks<S> {
    pub(crate) fn before(shows: S) -> Self {
        Self { shows }
    }
}

/// The name of a host.
#[derive(Default)]
struct Name(String);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}

fn is_host(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.name() == "node" && metadata.target().starts_with("turmoil")
}

/// The seconds that an id of a host's span carries.
fn ahead(id: &Id) -> Option<i64> {
    let bits = id.into_u64();
    let seconds = i64::try_from(bits & !OF_HOST).unwrap_or(0) - SHIFT;
    (bits & OF_HOST != 0 && (-MOST..=MOST).contains(&seconds)).then_some(seconds)
}

impl<S: Subscriber> Subscriber for Clocks<S> {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_host(metadata) {
            Interest::always()
        } else {
            self.shows.register_callsite(metadata)
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_host(metadata) || self.shows.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let shown = self.shows.max_level_hint()?;
        Some(shown.max(LevelFilter::INFO))
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        if !is_host(span.metadata()) {
            return self.shows.new_span(span);
        }
        let mut name = Name::default();
        span.record(&mut name);
        let clocks = AHEAD.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = clocks.get(&name.0).copied().unwrap_or(0);
        Id::from_u64(OF_HOST | u64::try_from(ahead + SHIFT).unwrap_or(0))
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        if ahead(span).is_none() {
            self.shows.record(span, values);
        }
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        if ahead(span).is_none() && ahead(follows).is_none() {
            self.shows.record_follows_from(span, follows);
        }
    }

    fn event_enabled(&self, event: &Event<'_>) -> bool {
        self.shows.event_enabled(event)
    }

    fn event(&self, event: &Event<'_>) {
        self.shows.event(event);
    }

    fn enter(&self, span: &Id) {
        match ahead(span) {
            Some(seconds) => nature::on_a_clock_ahead_by(seconds),
            None => self.shows.enter(span),
        }
    }

    fn exit(&self, span: &Id) {
        match ahead(span) {
            Some(_) => nature::on_a_clock_ahead_by(0),
            None => self.shows.exit(span),
        }
    }

    fn clone_span(&self, id: &Id) -> Id {
        match ahead(id) {
            Some(_) => id.clone(),
            None => self.shows.clone_span(id),
        }
    }

    fn try_close(&self, id: Id) -> bool {
        ahead(&id).is_some() || self.shows.try_close(id)
    }
}
