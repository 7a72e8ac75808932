//! What the suites share. Never part of a product.
