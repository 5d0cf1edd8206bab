//! The body of a request, for the few that may have one.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

/// A request's body, of which nothing was read. Dropping it unread leaves the rest to hyper, which
/// reads what little there is or closes the connection.
pub(crate) struct RequestBody(Incoming);

/// Why a body was not read whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestBodyError {
    /// There is more than may be.
    #[error("it is too large")]
    TooLarge,
    /// It took longer than it may.
    #[error("it does not come")]
    Timeout,
    /// The client broke off.
    #[error("it broke off")]
    Broken,
}

impl RequestBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self(body)
    }

    /// Its bytes as they come; an error where none come for `idle_max`, or where it breaks off.
    pub(crate) fn stream(self, idle_max: Duration) -> BoxStream<'static, io::Result<Bytes>> {
        stream::try_unfold(self.0.into_data_stream(), move |mut body| async move {
            let next = timeout(idle_max, body.next()).await;
            let next = next.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
            let chunk = next.transpose().map_err(io::Error::other)?;
            Ok(chunk.map(|chunk| (chunk, body)))
        })
        .boxed()
    }

    /// All of it.
    ///
    /// # Limits
    ///
    /// Up to `bytes_max` bytes, within `wait_max`.
    pub(crate) async fn read(
        self,
        bytes_max: usize,
        wait_max: Duration,
    ) -> Result<Bytes, RequestBodyError> {
        let reading = Limited::new(self.0, bytes_max).collect();
        match timeout(wait_max, reading).await {
            Err(_) => Err(RequestBodyError::Timeout),
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(RequestBodyError::TooLarge),
            Ok(Err(_)) => Err(RequestBodyError::Broken),
        }
    }
}
