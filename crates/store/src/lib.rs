//! The storage adapters of AgentOS Recovery: one SQLite file, group commit, many processes.
