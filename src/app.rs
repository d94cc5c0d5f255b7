//! Builds the service, binds it, runs it and stops it in order.

use std::error::Error;

use crate::config::Settings;

/// Serves until the process is told to stop.
///
/// # Errors
/// What kept the service from starting.
pub async fn serve(_settings: Settings, _dev: bool) -> Result<(), Box<dyn Error>> {
    Ok(())
}

/// Brings what is stored in Redis to the form that this version reads.
///
/// # Errors
/// What kept it from being brought there.
pub async fn migrate(_settings: Settings) -> Result<(), Box<dyn Error>> {
    Ok(())
}
