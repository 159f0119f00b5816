# frozen_string_literal: true

require "digest"
require "fileutils"
require "json"
require "tempfile"

module Vexrun
  # Which accelerator really works: the same question as vexrun/vm/accel.py asks, and the same
  # memory of the answer. /dev/kvm may open and still hang every stock kernel before its first
  # line, so the guest's own kernel is booted and must print it.
  module Accelerator
    DEADLINE = 8.0
    MARK = "Linux version"

    # One of the description's rows. `choice` is auto, kvm or tcg.
    def self.choose(choice, rows, kernel)
      return rows.fetch("tcg") if choice == "tcg"

      problem = kvm_problem(kernel)
      return rows.fetch("kvm") if problem.nil?
      raise Errors::Refused, "KVM was asked for and cannot be used: #{problem}." if choice == "kvm"

      rows.fetch("tcg")
    end

    # Why KVM cannot be used, nil when it works.
    def self.kvm_problem(kernel)
      return "there is no /dev/kvm" unless File.exist?("/dev/kvm")
      return "this user may not open /dev/kvm" unless File.readable?("/dev/kvm") && File.writable?("/dev/kvm")

      key = fact_key(kernel)
      remembered = recall(key)
      return remembered.empty? ? nil : remembered unless remembered.nil?

      problem = boot_under_kvm(kernel)
      remember(key, problem.to_s)
      problem
    end

    def self.boot_under_kvm(kernel)
      Tempfile.create("vexrun-kvm") do |console|
        argv = %w[qemu-system-x86_64 -nodefaults -no-user-config -display none -machine q35]
        argv += %w[-accel kvm -cpu host -m 256 -no-reboot]
        argv += ["-kernel", kernel, "-serial", "file:#{console.path}"]
        argv += ["-append", "console=ttyS0 earlyprintk=ttyS0,115200 panic=-1"]
        pid = Process.spawn(*argv, in: File::NULL, out: File::NULL, err: File::NULL)
        begin
          return watch(pid, console.path)
        ensure
          begin
            Process.kill(:KILL, pid)
            Process.wait(pid)
          rescue Errno::ESRCH, Errno::ECHILD
            nil # it has ended by itself
          end
        end
      end
    end

    def self.watch(pid, console)
      deadline = now + DEADLINE
      while now < deadline
        return nil if File.binread(console).include?(MARK)
        return "QEMU cannot use KVM here" if Process.wait(pid, Process::WNOHANG)

        sleep 0.05
      end
      "/dev/kvm opens, but a stock kernel prints nothing under it within #{DEADLINE.to_i} s"
    end

    def self.fact_key(kernel)
      boot = File.read("/proc/sys/kernel/random/boot_id").strip
      version = IO.popen(%w[qemu-system-x86_64 --version], &:readline).chomp
      "#{boot} #{Digest::SHA256.file(kernel).hexdigest} #{version}"
    end

    def self.recall(key)
      answer = JSON.parse(File.read(memory_file))[key]
      answer.is_a?(String) ? answer : nil
    rescue Errno::ENOENT, JSON::ParserError
      nil
    end

    def self.remember(key, answer)
      FileUtils.mkdir_p(File.dirname(memory_file))
      temporary = "#{memory_file}.#{Process.pid}"
      File.write(temporary, JSON.generate(key => answer))
      File.rename(temporary, memory_file)
    end

    def self.memory_file
      cache = ENV["XDG_CACHE_HOME"] || File.join(Dir.home, ".cache")
      File.join(ENV["VEXRUN_CACHE_DIR"] || File.join(cache, "vexrun"), "kvm-probe.json")
    end

    def self.now
      Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end

    private_class_method :boot_under_kvm, :watch, :fact_key, :recall, :remember, :memory_file, :now
  end
end
