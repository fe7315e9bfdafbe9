//! One HTTP/1.1 connection as bytes: what was read and not yet used, what waits to be written.

use std::{
    io,
    task::{Context, Poll},
};

use super::output::Output;
use crate::{
    http::input::Input,
    net::{Stream, pipe::Pipe},
};

/// A stream and its two buffers.
#[derive(Debug)]
pub struct Wire {
    pub stream: Stream,
    pub input: Input,
    pub output: Output,
}

impl Wire {
    /// `input` holds what was read already.
    pub fn new(stream: Stream, input: Input) -> Self {
        Self {
            stream,
            input,
            output: Output::default(),
        }
    }

    /// See [`Input::poll_fill`].
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.poll_fill(cx, &mut self.stream)
    }

    /// See [`Input::poll_pipe`].
    pub fn poll_pipe(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<Option<io::Result<Pipe>>> {
        self.input.poll_pipe(cx, &self.stream, most)
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.poll_flush(cx, &mut self.stream)
    }
}
