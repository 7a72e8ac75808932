//! trainyard-agent
