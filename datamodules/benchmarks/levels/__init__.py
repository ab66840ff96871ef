"""Which tasks of several collections train, and at which level of generalization the others are evaluated."""
