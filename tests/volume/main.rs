//! Much at once. One test after the other would be fairest; both share the machine's cores as they would in use.
