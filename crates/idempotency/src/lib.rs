//! Nothing is done twice, nothing is paid twice, and doubt is said aloud.
//!
//! [`IdempotencyStore`] is the gate: for one key, callers in any number of threads
//! and processes get one execution. On it rest the cache of model outputs and the
//! ledger of tool calls. This crate knows the port of `agentos-core`, never an engine.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use agentos_core::{IdempotencyKey, NewOutcome, Storage, Worker, WorkerId};
//! use agentos_idempotency::{
//!     Begin, CanonicalJson, GateConfig, IdempotencyError, IdempotencyStore, Request,
//! };
//!
//! fn charge(storage: Arc<dyn Storage>, order: &str) -> Result<Vec<u8>, IdempotencyError> {
//!     let owner = Worker::start(WorkerId::new("host-1")?);
//!     let gate = IdempotencyStore::new(storage, GateConfig::new(owner))?;
//!     let what = CanonicalJson::of_text(order)?;
//!     let key = IdempotencyKey::new("charge:order-42")?;
//!     let request = Request::new(key, what.digest()).operation("charge");
//!     match gate.begin_wait(&request, Duration::from_secs(10))? {
//!         Begin::Execute(permit) => {
//!             let receipt = b"paid".to_vec();
//!             gate.finish(permit, NewOutcome::success(receipt.clone()))?;
//!             Ok(receipt)
//!         }
//!         Begin::Replay(entry) => Ok(entry.outcome.unwrap_or_default()),
//!         Begin::InFlight(holder) => Err(IdempotencyError::InFlight(Box::new(holder))),
//!         Begin::InDoubt(holder) => Err(IdempotencyError::InDoubt(Box::new(holder))),
//!     }
//! }
//! ```

mod command_tool;
mod config;
mod error;
mod gate;
mod kept;
mod key;
mod late;
pub mod limits;
mod llm_cache;
mod permits;
mod request;
mod stats;
mod tool_ledger;
mod uses;
mod waiting;

pub use command_tool::{
    COMMAND_VERSION, CommandAnswer, CommandCall, CommandEnd, CommandError, CommandOutcome, CutOff,
    KEY_VARIABLE, MalformedOutcome,
};
pub use config::GateConfig;
pub use error::{IdempotencyError, JsonError};
pub use gate::{Begin, HeldPermit, IdempotencyStore};
pub use key::{CanonicalJson, cache_key};
pub use llm_cache::{
    AnswerBody, AnswerFormat, CacheConfig, CacheError, CacheStats, Cached, CallOptions, Candidate,
    EnvelopeError, Finish, Invalidation, Json, LlmAnswer, LlmOutputCache, LlmRequest, NotStored,
    Origin, Role, Scope, StoredAnswer, ToStore, Ttl, Usage,
};
pub use permits::PermitLoss;
pub use request::Request;
pub use stats::{GateStats, fraction};
pub use tool_ledger::{
    CallContext, CallSummary, DoubtfulCall, Effect, LedgerConfig, LedgerStats, MalformedRecord,
    OnDoubt, OnFailure, PendingOutcome, Prepared, RECORD_VERSION, RecordedCall, Redact,
    RunningCall, Started, Step, TooLarge, ToolAnnotations, ToolAnswer, ToolCall, ToolError,
    ToolFailure, ToolLedger, ToolOutcome, ToolOutput, ToolRecord, Trust, Unrecorded,
};
