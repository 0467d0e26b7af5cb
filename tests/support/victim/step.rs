//! A role that does everything of which a part is a point to die at: rows of each kind,
//! evidence about a file, a tool that is left in doubt and probed, a model that is asked.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use agentos_checkpoints::{CheckpointConfig, CheckpointManager, Evidence, NewCheckpoint, Pack};
use agentos_core::{
    AuditLine, CheckpointType, ClaimRequest, Commit, FailWork, Finding, LeaseStorage, NewWorkItem,
    RecordVerification, RequeueWork, Retry, SequenceNumber, SetTaskStatus, Storage, TaskStatus,
    Verification,
};
use agentos_idempotency::{
    CacheConfig, DoubtfulCall, GateConfig, IdempotencyStore, LedgerConfig, LlmAnswer,
    LlmOutputCache, LlmRequest, OnDoubt, Prepared, Role, ToolCall, ToolError, ToolFailure,
    ToolLedger, ToolOutcome,
};
use agentos_tests::{append, leased_clock, new_task, open_leased, task_id, worker};
use serde_json::json;

use super::say;

/// Does it all, at a clock that stands still; `work` has the file of which the evidence
/// speaks.
pub(super) fn step(database: &str, work: &str) {
    let store = Arc::new(open_leased(Path::new(database), &leased_clock()));
    let shared = Arc::clone(&store) as Arc<dyn Storage>;
    let me = worker("agent", "first");
    let status = SetTaskStatus::new(task_id("step"), TaskStatus::Running);
    let commit = Commit::new()
        .part(new_task("step"))
        .part(status)
        .part(append("step", "state"))
        .part(AuditLine::new(task_id("step"), "begun"))
        .part(NewWorkItem::new("fails").max_attempts(1));
    store.commit(commit).expect("a commit");
    let record = RecordVerification {
        task: task_id("step"),
        sequence: SequenceNumber::new(1).expect("a number"),
        verification: Verification::Failed,
        results: Vec::new(),
    };
    store.commit(record.into()).expect("a verification");
    let leases = store.claim(&ClaimRequest::new(me.clone())).expect("leases");
    let fence = leases.first().expect("the item").fence;
    let fail = FailWork {
        fence,
        reason: "it fails".into(),
        retry: Retry::Never,
    };
    store.commit(fail.into()).expect("a failure");
    let requeue = RequeueWork {
        item: fence.item,
        reason: Some("once more".into()),
    };
    store.commit(requeue.into()).expect("an item in the queue");
    let config = CheckpointConfig::new(work);
    let checkpoints = CheckpointManager::new(Arc::clone(&shared), config).expect("a manager");
    let new = NewCheckpoint::new(task_id("step"), CheckpointType::IterationEnd)
        .evidence(Pack::all([Evidence::file("artifact")]));
    checkpoints.append(new).expect("a checkpoint");

    let gate = IdempotencyStore::new(shared, GateConfig::new(me)).expect("a gate");
    let ledger = ToolLedger::new(gate.clone(), LedgerConfig::new());
    let probe = |_: &DoubtfulCall| Finding::Happened(ToolOutcome::Done("found".into()));
    let call = ToolCall::new("book", json!({}))
        .of_task(&task_id("step"))
        .on_doubt(OnDoubt::verify(probe));
    let unknown = ledger.prepare(&call, |_| Err(ToolFailure::unknown("cut off")));
    assert!(
        matches!(unknown, Err(ToolError::InDoubt { .. })),
        "{unknown:?}"
    );
    let probed = ledger.prepare(&call, |_| Ok("run again".into()));
    assert!(matches!(probed, Ok(Prepared::Replayed(_))), "{probed:?}");
    let cache = LlmOutputCache::new(gate, CacheConfig::default()).expect("a cache");
    let request = LlmRequest::chat("openai", "gpt-5").message(Role::User, "question");
    let asked = cache.get_or_generate(&request, || {
        Ok::<_, Infallible>(LlmAnswer::new("answer".to_owned()))
    });
    say(format_args!("{}", asked.expect("an answer").body));
}
