//! trainyard-coordinator
