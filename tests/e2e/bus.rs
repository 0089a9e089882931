//! Bus
