"""May this module go on: from the VM to a test device, from there to production?"""
