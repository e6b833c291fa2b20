"""What tests share: fakes of the build, real brokers, servers and SOAP stacks."""
