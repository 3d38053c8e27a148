"""The writer's half of the consensus, pure: campaigns, quorums, what to send next to whom, what is committed."""
