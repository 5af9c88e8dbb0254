"""What a run of an instance sent, received and computed: for checks and for inspection."""
