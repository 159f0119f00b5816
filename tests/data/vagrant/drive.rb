# Calls the provider's Guest without Vagrant: ruby drive.rb DATA_DIR BOX METHOD [ARGUMENT]
module Vexrun
  module Errors
    class Refused < StandardError; end
    class QemuFailed < StandardError; end
  end
end

require_relative "../../../vagrant/provider/guest"

Settings = Struct.new(:memory, :cpus, :source, :accelerator, :description)
data, box, method, argument = ARGV
guest = Vexrun::Guest.new(data)
begin
  result =
    case method
    when "create" then guest.create(box, argument)
    when "start" then guest.start(Settings.new(3000, nil, argument || "/source", "tcg", nil))
    else argument.nil? ? guest.send(method) : guest.send(method, argument)
    end
  puts result.is_a?(Hash) || result.is_a?(Array) ? JSON.generate(result) : result
rescue Vexrun::Errors::Refused, Vexrun::Errors::QemuFailed => e
  warn e.message
  exit 3
end
