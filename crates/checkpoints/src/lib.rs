//! Checkpoints of AgentOS Recovery: sealed state with evidence about the outside world, and resume.
