"""Running candidates on devices: plans, groups, compiled programs, memory."""
