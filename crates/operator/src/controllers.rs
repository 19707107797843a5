//! Starts the controllers.

use crate::run::Context;

/// A controller cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// Runs all controllers until `context.shutdown`.
pub async fn run(context: Context) -> Result<(), Error> {
    context.shutdown.cancelled().await;
    Ok(())
}
