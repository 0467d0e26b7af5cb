//! A model server on loopback, in a process of its own: it outlives those who ask it,
//! and ends when it is killed.

use std::error::Error;

use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;

use super::say;
use crate::chat::{Pace, Server};

/// What the server says when it listens; its port follows.
const LISTENING: &str = "listening ";

/// The role of a model server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Model {
    /// How long its answers take.
    pub(crate) pace: Pace,
}

impl Model {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let server = Server::listen(self.pace).await?;
            say(&format!("{LISTENING}{}", server.port()?))?;
            match server.serve().await? {}
        })
    }
}

/// The port that a server named, if that is what it said.
pub(crate) fn port_of(line: &str) -> Option<u16> {
    line.strip_prefix(LISTENING)?.parse().ok()
}
