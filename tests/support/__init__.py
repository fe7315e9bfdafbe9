"""What the end-to-end tests share: the process, raw peers, real peers."""
