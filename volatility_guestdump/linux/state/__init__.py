# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a kernel says of itself: log, tasks, modules, memory use, time, crash."""
