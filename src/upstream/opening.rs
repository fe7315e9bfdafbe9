//! A connection that one request opens and others wait for, since they are going to share it.

use std::cell::RefCell;

use tokio::sync::Notify;

use crate::error::Error;

/// Made by the one who opens, awaited by the others.
#[derive(Debug, Default)]
pub(super) struct Opening {
    ended: Notify,
    failure: RefCell<Option<Error>>,
}

impl Opening {
    /// Waits until the opening has ended one way or the other. An error is everybody's: were each
    /// to try again by itself, the last of them would wait for as many timeouts as there are.
    pub(super) async fn ended(&self) -> Result<(), Error> {
        self.ended.notified().await;
        match &*self.failure.borrow() {
            Some(error) => Err(copy(error)),
            None => Ok(()),
        }
    }

    pub(super) fn fail(&self, error: &Error) {
        *self.failure.borrow_mut() = Some(copy(error));
    }

    pub(super) fn end(&self) {
        self.ended.notify_waiters();
    }
}

/// The same without its source, which has only one owner; its text goes into the detail.
fn copy(error: &Error) -> Error {
    let detail = match &error.source {
        Some(source) => format!("{}: {source}", error.detail).into(),
        None => error.detail.clone(),
    };
    Error::new(error.reason, "")
        .detail(detail)
        .replay(error.replay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Reason, Replay};

    #[tokio::test]
    async fn all_who_wait_share_the_failure() {
        let opening = Opening::default();
        let error = Error::new(Reason::ConnectTimeout, "slow").replay(Replay::NeverSent);
        let ((), first, second) = tokio::join!(
            biased;
            async {
                tokio::task::yield_now().await;
                opening.fail(&error);
                opening.end();
            },
            opening.ended(),
            opening.ended(),
        );
        for got in [first, second] {
            let got = got.unwrap_err();
            assert_eq!(
                (got.reason, got.replay),
                (Reason::ConnectTimeout, Replay::NeverSent)
            );
        }
    }

    #[tokio::test]
    async fn one_who_gave_up_lets_the_others_try() {
        let opening = Opening::default();
        let ((), waited) = tokio::join!(
            biased;
            async {
                tokio::task::yield_now().await;
                opening.end();
            },
            opening.ended(),
        );
        waited.unwrap();
    }
}
