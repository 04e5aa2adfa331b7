# ruff: noqa: E501  (a template stays on one line)
"""The wording of the calls: templates, and what a speech recogniser makes of words. Data only.

In a template `[a|b|c]` stands for one of the alternatives, one of which may be empty. A topic's phrases fit both of its items; an
item's phrases distinguish it. Only the phrases in `AFTER_SALE`, which are said after the purchase, name what is bought.
"""

from typing import Final

GREETINGS: Final = (
    "[hello|good morning|good afternoon|hi] [you are speaking to|this is] [anna|martin|sofia|david|julia|peter] [|from customer service] how can i help you",
    "[thank you for calling|thanks for waiting|welcome] my name is [anna|martin|sofia|david|julia|peter] what can i do for you",
    "insurance customer service [good morning|good afternoon|hello] what is it about",
)
OPENERS: Final = (
    "[hi|hello|yes hello|good morning] [i have a question|i wanted to ask something|i hope you can help me|i am calling because of something]",
    "[hi|hello] my name is [smith|jones|miller|walker|green|baker] [and i am a customer of yours|i have been with you for years|]",
    "[yes|okay|right] so [i was looking at your website|my neighbour told me to call|i got a letter from you] and [i am not sure|i got confused|i have some questions]",
)
CUSTOMER_TALK: Final = (
    "[sorry|excuse me] [the line is bad|there is some noise here|my kids are shouting in the back]",
    "[it is raining|what weather|it is so hot] [here today|today|again this week]",
    "[no problem at all|take your time|of course|sure no rush]",
    "[thank you|thanks] [that is very kind|for explaining|for your help]",
    "[i waited|i have been waiting] [quite long|for ten minutes|for ages] [in the queue|on the line|] [but never mind|]",
    "[my address is|my number is|that would be] [the old one|on my letter somewhere|the same as before]",
    "[yes exactly|yes that is right|mm yes|okay yes|right]",
)
AGENT_TALK: Final = (
    "[it is raining|what weather|it is so hot] [here today|today|again this week]",
    "[one moment please|just a second|hold on] [i am looking it up|the system is slow today|my computer is slow]",
    "[no problem at all|take your time|of course|sure no rush]",
    "[thank you|thanks] [that is very kind|for your patience|for waiting]",
    "can i have your [date of birth|address|customer number|post code] please",
    "[how was your holiday|did you have a nice weekend|busy day today]",
)
QUESTIONS: Final = (
    "[what exactly happened|can you tell me more|what are you worried about most|what do you have in mind]",
    "[do you have|is there] [anything like that|something in place|a policy] [with us|already|with another company]",
    "[when would you need it|from when on|how soon do you need this]",
    "[let me see|okay let me check|i understand] [what we can do|what fits your situation|what your options are]",
)
EXPLANATIONS: Final = (
    "[the price|it] depends on [the sum|where you live|the deductible|your age] [of course|]",
    "[there is|we have] a [basic|normal|small] and [an extended|a full|a larger] [version|package]",
    "you can [cancel|change] it [every month|once a year|at any time]",
    "[i can send you|you will get] the [terms|details|offer] by [mail|post|email]",
)
CLOSINGS: Final = (
    "[thank you|thanks a lot|many thanks] [goodbye|bye|have a nice day]",
    "[no that was all|nothing else] [thank you|thanks|for today]",
    "[i will think about it|let me sleep on it|i need to talk to my wife|i will look at it tonight] [bye|thanks]",
)
SERVICE: Final = (
    "[i moved|we moved|we are moving] [last week|next month|] and [need to change my address|you have the old address]",
    "[i would like to know|can you tell me] [how far my claim is|when the money comes|what happened to my claim]",
    "[i did not get|there is a mistake in] [the last bill|my invoice|the letter]",
    "[i forgot|i lost] my [password|login|pin] [for the website|again|]",
    "[can i pay|i want to pay] [monthly|by card|once a year] [instead|from now on|]",
)
BEFORE_SALE: Final = (
    "[i can set that up|we can do that|i can arrange that] for you [right now|on the phone|straight away]",
    "[yes please|okay let us do it|good i will take it|fine go ahead]",
    "[i need your|please give me your] [consent|okay|confirmation] [for the contract|to go on|]",
)
AFTER_SALE: Final = (
    "you have now bought {name}",
    "[congratulations|all done] your new {name} [is active|starts today|starts tomorrow]",
    "[thank you|great] [so i am covered now|that went fast|that was easy]",
    "the [contract|policy] for {name} [comes by email|is in your inbox|will be sent to you]",
)
TOPICS: Final[dict[str, tuple[str, ...]]] = {
    "children": ("[my|our] [son|daughter|little one] [starts school|is six now|plays outside all day]", "it is [about|for] [the kids|our children|my child]"),
    "family": ("[my wife|my husband|my partner] [worries|is afraid] [what happens if i am gone|that something happens to me]", "[i have|we have] a family to [think of|look after]"),
    "car": ("[i bought|we got|i am getting] [a new car|another car|a used car]", "the [car|vehicle] [is|will be] [at the dealer|in the garage|registered next week]"),
    "building": ("[the roof|a pipe|the cellar] [leaks|is leaking|was flooded] [after the storm|last winter|]", "we [own|bought|inherited] [a place|a building] [by the lake|in the country|last year]"),
    "trip": ("we are [driving|travelling|going] [abroad|to spain|to italy|through europe] [this summer|next month|for two weeks]", "[what if something happens|who helps us] [on the way|far from home|on the trip]"),
    "injury": ("[i fell|i had a fall|i was hit] [and hurt my|and broke my] [arm|leg|back|shoulder]", "what [do i get|is paid] if i [cannot work|am injured|stay disabled]"),
    "animal": ("[the vet|the animal clinic] [is so expensive|sent a huge bill|wants an operation]", "[she|he] [is three years old|limps|ate something bad] and [bit someone|kicked someone|ran away] [once|last week|]"),
    "weekend": ("[we are|i am] [away|out] [at the weekend|every weekend] and [nobody is there|leave it behind|worry a bit]", "[she|it] [is old|is small|was expensive] [but|and] [we love her|i care a lot]"),
    "papers": ("[i got|there is] a [letter from a lawyer|dispute|quarrel] [about|over] [an inheritance|a bill|a sale]", "i have [receipts|certificates|documents] for [everything|it all]"),
    "scratch": ("[there is|i found] [a crack|a scratch|some damage] on [my|the] [car|parked car] [this morning|]", "it is [only a small thing|nothing big] but [the garage asks a lot|repairs are expensive]"),
    "theft": ("[somebody|someone|thieves] [stole|has stolen|took] [my things|a lot from us|something from me]", "[i went|we went] to the police [and filed a report|yesterday|]"),
    "doctor": ("the [doctor|hospital|specialist] [told me|says] [i have to wait|it may be serious|i need treatment]", "[my|the] [diagnosis|results|examination] [came|was] [last week|on monday]"),
}  # fmt: skip
ITEMS: Final[dict[int, tuple[str, ...]]] = {
    1: ("[she needs|he needs] [braces|two fillings|the dentist]", "the dentist [bill|visit] was [huge|terrible]"),
    2: ("[he fell|she fell] from the [swing|climbing frame|tree] at [school|kindergarten]", "if [he|she] [breaks a bone|is hurt] at [school|play]"),
    3: ("i [ride|started riding] [a motorcycle|my scooter|a bike with an engine]", "[the helmet|the season] [starts in spring|is ready]"),
    4: ("[it is not insured yet|it needs liability|i need number plates]", "[liability|comprehensive] [with|and] [how many years without claims|what deductible]"),
    5: ("it is our [holiday home|summer house|cottage]", "we [rent it out|are there only] [in summer|in the holidays]"),
    6: ("[the flight|the hotel|our luggage] [was cancelled|is not refundable|got lost]", "if [we fall ill|i get sick] [abroad|before the flight]"),
    7: ("it was [at home|in the garden|while skiing|playing football]", "[in my free time|on the stairs|on the ladder] [it happened|i slipped]"),
    8: ("it is [the house we live in|our family house|our own house]", "[the bank|the mortgage] [wants proof|asks for it]"),
    9: ("[the stable|my riding teacher|the saddle] [asked for it|costs a lot]", "[my mare|the pony|the horse] [is a good jumper|is at the stable]"),
    10: ("[the marina|the harbour] [asks for proof|wants papers]", "[it has a sail|the engine|the hull] [and a cabin|is new]"),
    11: ("[my grandmother's ring|a painting|a watch] [was valued|is worth a lot]", "[the jewellery|the necklace|the art] [is in the safe|is at home]"),
    12: ("[the other driver|the dealer|the seller] [sues me|denies everything|refuses to pay]", "[the fine|the court|the traffic ticket] [is not fair|is next month]"),
    13: ("[last year we broke down|the battery died] [on the motorway|in the mountains]", "[do you tow|who tows] [the car|us] [back|home]"),
    14: ("[i need|i would need] [a rental|something to drive] [while it is repaired|to get to work]", "[how do i get to work|i cannot be without a car] [meanwhile|for days]"),
    15: ("[a nail in the tyre|the rim is bent|a flat tyre]", "[i lost|someone took] the [key|car keys|spare key]"),
    16: ("[a stone hit|something hit] [the windscreen|the front window]", "[the windscreen|the glass] [has to be replaced|is broken]"),
    17: ("[i was driving|at the wheel|behind the wheel] [when it happened|and it was my fault]", "[the passengers are covered|everyone is covered] but [what about the driver|not me]"),
    18: ("[the bicycle|the television|my laptop] [was in the flat|from the apartment|from the cellar]", "[they broke the door|through the window] [of the flat|while we slept]"),
    19: ("[they ordered things|someone opened an account] in my name [online|]", "[my card data|my password|my passport copy] [was hacked|is on the internet]"),
    20: ("[cancer|a stroke|a heart attack] [runs in my family|is what i fear]", "[a lump sum|money at once] [if it is serious|at the diagnosis]"),
    21: ("[the loan|the mortgage] has to be paid [when i die|without me]", "[a sum for|money for] [my wife|the children] [after my death|if i die]"),
    22: ("[the waiting list|the queue] for [an operation|physiotherapy|a psychologist] is long", "[my back|my knee] needs [physiotherapy|a specialist|an operation] [soon|]"),
    23: ("[the cat|our kitten|the tomcat] [stays alone|is with the neighbour|scratches]", "[she purrs|the litter box|she climbs trees] [all day|at night]"),
    24: ("[the puppy|our dog|the labrador] [pulls the leash|barks at everybody|is in dog school]", "[a dog tax|the leash|a muzzle] [is required|is needed here]"),
}  # fmt: skip
MISHEARD: Final[dict[str, str]] = {
    "insurance": "assurance", "car": "card", "house": "how's", "dog": "dock", "cat": "cap", "horse": "hoarse", "vet": "bet", "bill": "bell",
    "policy": "police", "roof": "proof", "pipe": "type", "tyre": "tire", "key": "tea", "fell": "fill", "doctor": "daughter", "claim": "climb",
    "boat": "vote", "flight": "fright", "ring": "bring", "court": "caught", "garage": "carriage", "dentist": "density", "braces": "bracers",
    "loan": "lone", "stable": "table", "theft": "deft", "letter": "ladder", "driver": "diver", "school": "cool", "back": "pack", "knee": "need",
    "windscreen": "wind screen", "mortgage": "more gauge", "marina": "marine a", "liability": "lie ability", "hotel": "hot tell",
}  # fmt: skip
FILLERS: Final = ("uh", "um", "you know", "well", "like")
