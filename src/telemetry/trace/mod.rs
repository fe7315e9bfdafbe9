//! Which trace a request belongs to.

/// A place in a trace: the request's own span, or, where it is not sampled, that of its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceRef {
    pub trace_id: u128,
    pub span_id: u64,
    pub sampled: bool,
}
