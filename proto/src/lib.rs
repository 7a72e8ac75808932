//! trainyard-proto
