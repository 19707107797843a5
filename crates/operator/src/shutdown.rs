//! The end of the process: the first SIGTERM or SIGINT asks everything to finish, the second does not wait.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What a shell reports for a process that SIGTERM ended.
const ENDED_BY_SIGTERM: i32 = 128 + 15;

/// Cancels `shutdown` on the first SIGTERM or SIGINT and ends the process on the second.
pub fn on_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let name = first_of(&mut terminate, &mut interrupt).await;
        info!(signal = name, "shutting down");
        shutdown.cancel();
        let name = first_of(&mut terminate, &mut interrupt).await;
        warn!(signal = name, "second signal: ending at once");
        std::process::exit(ENDED_BY_SIGTERM);
    });
    Ok(())
}

async fn first_of(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
