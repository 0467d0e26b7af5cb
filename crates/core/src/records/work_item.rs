//! Work items: their states.

text_enum! {
    /// State of a work item.
    pub enum WorkItemStatus {
        /// Waits to be claimed.
        Pending = "pending",
        /// Held under a lease.
        InProgress = "in_progress",
        /// Done. Final.
        Succeeded = "succeeded",
        /// No attempt is left: the dead letter. An operator can requeue it.
        Failed = "failed",
        /// No longer wanted. Final.
        Cancelled = "cancelled",
    }
}

impl WorkItemStatus {
    /// The state in which work items are made.
    pub const INITIAL: WorkItemStatus = WorkItemStatus::Pending;

    /// Whether an item in this state may change to `next`.
    pub const fn can_become(self, next: WorkItemStatus) -> bool {
        use WorkItemStatus::{Cancelled, Failed, InProgress, Pending, Succeeded};
        matches!(
            (self, next),
            (Pending, InProgress | Cancelled)
                | (InProgress, Pending | Succeeded | Failed | Cancelled)
                | (Failed, Pending)
        )
    }
}
